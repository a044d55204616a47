//! What several programs print, as lines that say whose they are. Their bytes are theirs.

use std::{io::IsTerminal, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    process::Child,
    task::JoinHandle,
    time::timeout,
};

use crate::cli::{print::wants_colour, text::safe};

/// A line that is longer comes in pieces.
const LINE_MAX: u64 = 16 * 1024;
/// How long something that a program left behind may go on printing.
const REST: Duration = Duration::from_secs(1);
/// Colours of terminals, in turn.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Where a program's outputs go.
#[derive(Debug)]
pub(super) struct Outputs {
    out: Vec<u8>,
    err: Vec<u8>,
    tasks: Vec<JoinHandle<()>>,
}

impl Outputs {
    /// Of the program with this number, whose name is made as wide as the widest.
    pub(super) fn new(number: usize, name: &str, width: usize) -> Self {
        let plain = format!("{:<width$} | ", safe(name));
        let prefix = |is_terminal: bool| match wants_colour(is_terminal) {
            true => format!("\u{1b}[{}m{plain}\u{1b}[0m", COLOURS[number % COLOURS.len()]).into_bytes(),
            false => plain.clone().into_bytes(),
        };
        let (out, err) = (prefix(std::io::stdout().is_terminal()), prefix(std::io::stderr().is_terminal()));
        Self { out, err, tasks: Vec::new() }
    }

    /// Begins to print what it prints.
    pub(super) fn follow(&mut self, child: &mut Child) {
        if let Some(out) = child.stdout.take() {
            self.tasks.push(tokio::spawn(copy(out, tokio::io::stdout(), self.out.clone())));
        }
        if let Some(err) = child.stderr.take() {
            self.tasks.push(tokio::spawn(copy(err, tokio::io::stderr(), self.err.clone())));
        }
    }

    /// Once it has ended: what it printed last.
    pub(super) async fn finish(self) {
        for mut task in self.tasks {
            if timeout(REST, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// Line by line, to the end of either.
async fn copy(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, prefix: Vec<u8>) {
    let (mut from, mut line) = (BufReader::new(from), Vec::new());
    let mut is_cut = false;
    loop {
        line.clear();
        line.extend_from_slice(&prefix);
        match (&mut from).take(LINE_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let was_cut = is_cut;
        is_cut = line.last() != Some(&b'\n');
        if is_cut {
            line.push(b'\n');
        } else if was_cut && line.len() == prefix.len() + 1 {
            // Its end was told with the piece before.
            continue;
        }
        // Whole lines at once, so that they do not mix; it may wait, and holds up the program alone.
        if to.write_all(&line).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_say_whose_they_are_and_bytes_stay() {
        let long = "x".repeat(usize::try_from(LINE_MAX).unwrap());
        for (printed, expected) in [
            (&b"a\n\nb"[..], b"p | a\np | \np | b\n".to_vec()),
            (b"\xff\x00\x1b[1m\n", b"p | \xff\x00\x1b[1m\n".to_vec()),
            (b"", Vec::new()),
            (format!("{long}\nyz\n").as_bytes(), format!("p | {long}\np | yz\n").into_bytes()),
            (format!("{long}yz\n").as_bytes(), format!("p | {long}\np | yz\n").into_bytes()),
        ] {
            let mut to = Vec::new();
            copy(printed, &mut to, b"p | ".to_vec()).await;
            assert_eq!(to, expected);
        }
    }
}
