//! Server-sent events as the HTML standard reads them (section 9.2.6), and the comments beside them, which a browser
//! passes over. Knows nothing of watches.

/// What stands between two blank lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The event's data; None where there is no event.
    pub data: Option<String>,
    /// The event's type; empty is `message`.
    pub kind: String,
    /// What `id` says, if it is there.
    pub id: Option<String>,
    /// What `retry` says, in milliseconds.
    pub retry: Option<u64>,
    /// Its comments, each without the space that may follow the colon.
    pub comments: Vec<String>,
}

/// Reads a stream piece by piece.
#[derive(Debug, Default)]
pub struct Parser {
    /// What has come of the line that is not complete.
    line: Vec<u8>,
    /// The last line ended with CR: an LF belongs to it.
    after_cr: bool,
    begun: bool,
    block: Block,
    last_event_id: String,
}

impl Parser {
    /// What a browser sends as `Last-Event-ID` when it comes back.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Takes in what was received; gives the blocks that it completes.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Block> {
        let mut blocks = Vec::new();
        for byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, *byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => blocks.extend(self.end_of_line()),
                byte => self.line.push(*byte),
            }
        }
        blocks
    }

    fn end_of_line(&mut self) -> Option<Block> {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let line = if self.begun { &*text } else { text.strip_prefix('\u{feff}').unwrap_or(&text) };
        self.begun = true;
        if line.is_empty() {
            return self.end_of_block();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        let block = &mut self.block;
        match field {
            "" => block.comments.push(value.to_owned()),
            "data" => match &mut block.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => block.data = Some(value.to_owned()),
            },
            "event" => value.clone_into(&mut block.kind),
            "id" if !value.contains('\0') => block.id = Some(value.to_owned()),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => block.retry = value.parse().ok(),
            _ => {}
        }
        None
    }

    fn end_of_block(&mut self) -> Option<Block> {
        let block = std::mem::take(&mut self.block);
        if let Some(id) = &block.id {
            id.clone_into(&mut self.last_event_id);
        }
        (block != Block::default()).then_some(block)
    }
}
