//! Watches as server-sent events: what the client over HTTP makes of a text, and what it finds wrong with a bad one.

use onair::proto::WatchResponse;

use crate::{
    TRUTH, WEB, WEB_TOO,
    history::{History, Message, Parser, Said, check_all, of_message, said},
    story,
};

/// A message as the protocol has it, written by other code than the server's.
fn written(message: &WatchResponse) -> String {
    let json = of_message("WatchResponse", message);
    let quiet = message.events.is_empty() && message.reset.is_none() && !message.more && !message.snapshot_end;
    let id = if message.resume_token.is_empty() { String::new() } else { format!("id: {}\n", message.resume_token) };
    if quiet { format!(": {json}\n{id}\n") } else { format!("{id}data: {json}\n\n") }
}

fn watched(history: &History, stream: usize) -> Vec<WatchResponse> {
    let messages = history.streams[stream].messages.iter();
    messages
        .filter_map(|(_, message)| if let Message::Watch(message) = message { Some(message.clone()) } else { None })
        .collect()
}

/// The messages that a text holds; what is wrong with it, otherwise.
fn read(text: &str, piece: usize) -> Result<Vec<WatchResponse>, String> {
    let (mut parser, mut messages) = (Parser::default(), Vec::new());
    for block in text.as_bytes().chunks(piece).flat_map(|bytes| parser.feed(bytes)) {
        match said(&block)? {
            Said::Message(message) => messages.push(message),
            Said::End(status) => return Err(status.message().to_owned()),
            Said::Nothing => {}
        }
    }
    Ok(messages)
}

#[test]
fn events_are_read_as_browsers_read_them_wherever_they_are_cut() {
    let history = story();
    for stream in [TRUTH, WEB, WEB_TOO] {
        let messages = watched(&history, stream);
        assert!(messages.iter().any(|message| message.more) && messages.len() > 3);
        let text = format!("\u{feff}retry: 500\n\n{}", messages.iter().map(written).collect::<String>());
        for end in ["\n", "\r", "\r\n"] {
            for piece in [1, 7, 1_000_000] {
                assert_eq!(read(&text.replace('\n', end), piece).unwrap(), messages);
            }
        }
        // What is cut off did not come.
        assert_eq!(read(&text[..text.len() - 1], 64).unwrap(), messages[..messages.len() - 1]);
    }
    let mut parser = Parser::default();
    let blocks = parser.feed(b"id: 1\ndata\ndata:a\ndata:  b\nid: \0\nretry: 1x\nevent: x\nother: y\n\nid\n\n:c\n\n");
    assert_eq!((blocks[0].data.as_deref(), blocks[0].id.as_deref()), (Some("\na\n b"), Some("1")));
    assert_eq!((blocks[0].retry, blocks[0].kind.as_str(), blocks[2].comments[0].as_str()), (None, "x", "c"));
    assert_eq!((blocks.len(), parser.last_event_id()), (3, ""));
}

#[test]
fn a_bad_text_of_events_is_found() {
    let history = story();
    let messages = watched(&history, TRUTH);
    let part = messages.iter().find(|message| message.more).unwrap();
    let whole = messages.iter().find(|message| !message.more && !message.events.is_empty()).unwrap();
    let token = &whole.resume_token;
    let bookmark = WatchResponse { events: vec![], snapshot_end: false, reset: None, ..whole.clone() };
    let after = |line: &str, message: &WatchResponse| format!("{line}\n{}", written(message));
    for (name, words, text) in [
        ("a token amid a revision", "is not the message's token", after("id: r1", part)),
        ("no token after it", "is not the message's token", written(whole).replace(&format!("id: {token}\n"), "")),
        ("another token", "is not the message's token", written(whole).replace(&format!("id: {token}"), "id: r0")),
        ("a bookmark that is heard", "a bookmark is a comment", written(&bookmark).replacen(": ", "data: ", 1)),
        ("an event that is not heard", "a bookmark is a comment", written(whole).replacen("data: ", ": ", 1)),
        ("an event of a type", "does not hear", after("event: watch", whole)),
        ("two in one", "trailing characters", format!("{}{}", written(part).trim_end(), after("", whole))),
        ("JSON over lines", "EOF while parsing", written(whole).replacen(",\"", ",\n\"", 1)),
        ("a comment beside an event", "neither an event", after(": hello", whole)),
        ("unknown fields", "unrecognized field", written(whole).replacen("\"revision\"", "\"revison\"", 1)),
    ] {
        let found = read(&text, 64).expect_err(name);
        assert!(found.contains(words), "{name}: {found}");
    }
    assert_eq!(read(&written(&bookmark), 64).unwrap(), [bookmark]);
}

#[test]
fn an_event_that_is_lost_on_the_way_is_missed_by_the_checkers() {
    let history = story();
    let kept: Vec<_> = history.streams[WEB_TOO].messages.iter().collect();
    let read_back = |skip: Option<usize>| {
        let mut history = history.clone();
        let messages = &mut history.streams[WEB_TOO].messages;
        messages.clear();
        for (at, message) in kept.iter().enumerate().filter(|(place, _)| Some(*place) != skip).map(|(_, one)| one) {
            let Message::Watch(message) = message else { panic!("a watch") };
            let [message] = read(&written(message), 9).unwrap().try_into().unwrap();
            messages.push((*at, Message::Watch(message)));
        }
        check_all(&history)
    };
    assert!(read_back(None).is_empty());
    let lost = kept.iter().position(|(_, message)| match message {
        Message::Watch(message) => !message.events.is_empty() && !message.more && !message.snapshot_end,
        Message::Subscribe(_) => false,
    });
    let faults = read_back(lost);
    assert!(faults.iter().any(|fault| fault.promise == 7 && fault.what.contains("is missing")), "{faults:?}");
}
