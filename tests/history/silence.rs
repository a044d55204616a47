//! When streams speak, and how they end.

use onair::proto::ErrorReason;

use super::{End, Fault, Place, View, errors::reason_of, fault, feed::Feed, is_local};

/// Of promise 7: the first message comes at once, even if nothing matches; of a subscription, its first group.
pub fn late_first_messages(view: &View<'_>) -> Vec<Fault> {
    let bound = view.history.settings.first_message;
    let mut faults = Vec::new();
    for feed in view.feeds.iter().filter(|feed| feed.clear) {
        let until = feed.closed.unwrap_or(view.history.end);
        let first = feed.spoken().next();
        let waited = first.map_or(until, |part| part.at).saturating_sub(feed.opened);
        if waited > bound {
            faults.push(fault(
                7,
                place(feed, first.map(|part| part.message)),
                format!("silent at first for {waited:?}"),
            ));
        }
        let dropped = feed.spoken().last().is_some_and(|part| part.last);
        if let Some(sent) = feed.drop_sent.filter(|sent| !dropped && until.saturating_sub(*sent) > bound) {
            let what = format!("a subscription that was dropped at {sent:?} is not answered");
            faults.push(fault(7, Place::Stream(feed.stream), what));
        }
    }
    faults
}

/// Promise 11: no stream is silent for longer than the bookmark interval.
pub fn bookmarks(view: &View<'_>) -> Vec<Fault> {
    let bound = view.history.settings.silence;
    let mut faults = Vec::new();
    for feed in view.feeds.iter().filter(|feed| feed.clear) {
        let mut times: Vec<_> = feed.spoken().map(|part| (part.at, Some(part.message))).collect();
        times.push((feed.closed.unwrap_or(view.history.end), None));
        for pair in times.windows(2) {
            let silence = pair[1].0.saturating_sub(pair[0].0);
            if silence > bound {
                faults.push(fault(11, place(feed, pair[0].1), format!("silent for {silence:?} after this")));
            }
        }
    }
    faults
}

fn place(feed: &Feed<'_>, message: Option<usize>) -> Place {
    message.map_or(Place::Stream(feed.stream), |message| feed.place(message))
}

/// Promise 13: a stream ends because the client leaves, or with an error; at a shutdown with a last token.
pub fn ends_well(view: &View<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, stream) in view.history.streams.iter().enumerate() {
        let place = Place::Stream(number);
        match &stream.end {
            None | Some((_, End::ByClient)) => {}
            Some((_, End::Ok)) => faults.push(fault(13, place, "ended with OK")),
            Some((_, End::Error(status))) if is_local(status) => {
                if !view.history.settings.cuts {
                    faults.push(fault(13, place, format!("cut off without a status: {status}")));
                }
            }
            Some((_, End::Error(status))) if reason_of(status) == Some(ErrorReason::ShuttingDown) => {
                for feed in view.feeds.iter().filter(|feed| feed.stream == number && feed.clear) {
                    let whole = feed.spoken().last().is_none_or(|part| part.last || !part.token.is_empty());
                    let in_snapshot = feed.token.is_empty() && feed.spoken().all(|part| !part.snapshot_end);
                    if !whole && !in_snapshot {
                        faults.push(fault(13, place, "shut down without a last token"));
                    }
                }
            }
            Some((_, End::Error(_))) => {}
        }
    }
    faults
}
