//! What applications publish, on its way to the watches that asked for it. Nothing is kept: each watch has a box of its
//! own, of bounded size, out of which the oldest falls when its reader is slow; how many did is counted. Knows no
//! revisions, and nobody who publishes waits for anyone who reads.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use prost::encoding::encode_varint;
use smol_str::SmolStr;

use super::listener::Listener;
use crate::registry::{Filter, Instance, Scope, disjoint};

/// Most events that wait for one reader.
pub const BOX_EVENTS_MAX: usize = 256;
/// Most bytes that they have.
pub const BOX_BYTES_MAX: usize = 256 * 1024;
/// Most bytes that wait for all readers together, counted once for each that they wait for.
const BOARD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Fields of `WatchResponse` and of `SubscriptionGroup`.
const PUBLISHED: u64 = 9;
const PUBLISHED_LOST: u64 = 16;

/// An event to hand out.
#[derive(Clone, Debug)]
pub struct Post<'a> {
    /// Where it belongs.
    pub namespace: &'a str,
    /// See `namespace`.
    pub service: &'a str,
    /// Who published it, if that is proven.
    pub instance: Option<&'a Instance>,
    /// The encoded `Published`.
    pub event: &'a [u8],
}

/// Whose boxes there are, by what they are for.
#[derive(Debug, Default)]
pub struct Board {
    boxes: RwLock<HashMap<Scope, HashMap<u64, Arc<Letters>>>>,
    next: AtomicU64,
    held: AtomicUsize,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// How many watches it was handed to.
    pub watches: u64,
    /// How many events fell out of their boxes for it, or had no room there.
    pub lost: u64,
}

/// A watch's box, for as long as it is kept.
#[derive(Debug)]
pub struct Letterbox {
    board: Arc<Board>,
    number: u64,
    scopes: Vec<Scope>,
    letters: Arc<Letters>,
}

#[derive(Debug)]
struct Letters {
    filters: Vec<Filter>,
    listener: Arc<Listener>,
    part: u32,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Bytes>,
    bytes: usize,
    lost: u64,
}

impl Board {
    /// A box for what these filters match; its reader is woken through `listener`, for its subscription `part`.
    #[must_use]
    pub fn open(self: &Arc<Self>, filters: Vec<Filter>, listener: &Arc<Listener>, part: u32) -> Letterbox {
        // None of them within another, so that no event comes twice.
        let scopes = disjoint(filters.iter().map(Filter::scope).collect());
        let letters = Arc::new(Letters { filters, listener: Arc::clone(listener), part, waiting: Mutex::default() });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut boxes = self.boxes.write().unwrap_or_else(PoisonError::into_inner);
        for scope in &scopes {
            boxes.entry(scope.clone()).or_default().insert(number, Arc::clone(&letters));
        }
        Letterbox { board: Arc::clone(self), number, scopes, letters }
    }

    /// Hands an event to all who asked for it.
    pub fn hand_out(&self, post: &Post<'_>) -> Handed {
        let mut element = Vec::with_capacity(post.event.len() + 8);
        encode_varint(PUBLISHED << 3 | 2, &mut element);
        encode_varint(post.event.len() as u64, &mut element);
        element.extend_from_slice(post.event);
        let element = Bytes::from(element);
        let scopes = [
            Scope::All,
            Scope::Namespace(SmolStr::new(post.namespace)),
            Scope::Service(SmolStr::new(post.namespace), SmolStr::new(post.service)),
        ];
        let mut handed = Handed::default();
        let boxes = self.boxes.read().unwrap_or_else(PoisonError::into_inner);
        for letters in scopes.iter().filter_map(|scope| boxes.get(scope)).flat_map(HashMap::values) {
            if letters.want(post) {
                handed.watches += 1;
                handed.lost += self.put(letters, &element);
                letters.listener.wake_for(letters.part);
            }
        }
        handed
    }

    /// Puts an event into a box. How many were lost by that.
    fn put(&self, letters: &Letters, event: &Bytes) -> u64 {
        let mut waiting = letters.waiting();
        let before = waiting.lost;
        if self.held.load(Ordering::Relaxed) + event.len() > BOARD_BYTES_MAX {
            waiting.lost += 1;
            return 1;
        }
        self.held.fetch_add(event.len(), Ordering::Relaxed);
        waiting.bytes += event.len();
        waiting.events.push_back(event.clone());
        while (waiting.events.len() > BOX_EVENTS_MAX || waiting.bytes > BOX_BYTES_MAX)
            && let Some(oldest) = waiting.events.pop_front()
        {
            waiting.bytes -= oldest.len();
            self.held.fetch_sub(oldest.len(), Ordering::Relaxed);
            waiting.lost += 1;
        }
        waiting.lost - before
    }
}

impl Letters {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an instance published is for those who would see this instance; what nobody did, for all of its service.
    fn want(&self, post: &Post<'_>) -> bool {
        self.filters.iter().any(|filter| match post.instance {
            Some(instance) => filter.matches(instance),
            None => {
                filter.scope().covers(post.namespace, post.service)
                    && filter.service().is_none_or(|service| service == post.service)
            }
        })
    }
}

impl Letterbox {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let waiting = self.letters.waiting();
        waiting.events.is_empty() && waiting.lost == 0
    }

    /// Takes what waits, as fields of a message: whole events of at most `max` bytes together (a single larger one
    /// excepted), the oldest first, and how many were lost before them.
    #[must_use]
    pub fn take(&self, max: usize) -> Vec<u8> {
        let mut waiting = self.letters.waiting();
        let mut fields = Vec::new();
        while let Some(event) = waiting.events.front()
            && (fields.is_empty() || fields.len() + event.len() <= max)
        {
            fields.extend_from_slice(event);
            let taken = event.len();
            waiting.events.pop_front();
            waiting.bytes -= taken;
            self.board.held.fetch_sub(taken, Ordering::Relaxed);
        }
        let lost = mem::take(&mut waiting.lost);
        if lost > 0 {
            encode_varint(PUBLISHED_LOST << 3, &mut fields);
            encode_varint(lost, &mut fields);
        }
        fields
    }
}

impl Drop for Letterbox {
    fn drop(&mut self) {
        let mut boxes = self.board.boxes.write().unwrap_or_else(PoisonError::into_inner);
        for scope in &self.scopes {
            let Some(there) = boxes.get_mut(scope) else { continue };
            there.remove(&self.number);
            if there.is_empty() {
                boxes.remove(scope);
            }
        }
        // Nobody hands out while this holds the boxes.
        self.board.held.fetch_sub(self.letters.waiting().bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::{
        proto::{Published, WatchResponse},
        watch::ONLY_PART,
    };

    fn filter(namespace: &str, service: &str, selector: &str) -> Filter {
        Filter::new(namespace, service, "", selector).expect("a filter")
    }

    fn open(board: &Arc<Board>, filters: Vec<Filter>) -> Letterbox {
        board.open(filters, &Listener::new(), ONLY_PART)
    }

    fn event(kind: &str) -> Vec<u8> {
        Published { kind: kind.into(), ..Published::default() }.encode_to_vec()
    }

    fn hand_out(board: &Board, (namespace, service): (&str, &str), kind: &str) -> Handed {
        board.hand_out(&Post { namespace, service, instance: None, event: &event(kind) })
    }

    /// The kinds of the events, and how many were lost.
    fn taken(letterbox: &Letterbox, max: usize) -> (Vec<String>, u64) {
        let read = WatchResponse::decode(&letterbox.take(max)[..]).expect("a message");
        (read.published.into_iter().map(|event| event.kind).collect(), read.published_lost)
    }

    #[test]
    fn an_event_comes_once_to_each_who_asked_for_it() {
        let board = Arc::<Board>::default();
        let all = open(&board, vec![filter("*", "", ""), filter("", "web", ""), filter("", "", "")]);
        let everywhere = open(&board, vec![filter("*", "web", "status=*")]);
        let web = open(&board, vec![filter("", "web", "zone=eu")]);
        let other = open(&board, vec![filter("other", "", ""), filter("", "api", "")]);
        let empty = |of: &Letterbox| of.is_empty();
        assert_eq!(hand_out(&board, ("default", "web"), "a"), Handed { watches: 3, lost: 0 });
        assert_eq!(hand_out(&board, ("other", "web"), "b"), Handed { watches: 3, lost: 0 });
        assert_eq!(hand_out(&board, ("third", "x"), "c"), Handed { watches: 1, lost: 0 });
        let kinds = |kinds: &[&str]| (kinds.iter().map(|kind| (*kind).to_owned()).collect::<Vec<_>>(), 0);
        assert_eq!(taken(&all, usize::MAX), kinds(&["a", "b", "c"]));
        assert_eq!(taken(&everywhere, usize::MAX), kinds(&["a", "b"]));
        assert_eq!(taken(&web, usize::MAX), kinds(&["a"]));
        assert_eq!(taken(&other, usize::MAX), kinds(&["b"]));
        assert!([&all, &everywhere, &web, &other].into_iter().all(empty));
        // An instance's own go to those who would see it.
        let from = |zone: &str, status| {
            let instance = Instance {
                namespace: "default".into(),
                service: "web".into(),
                zone: zone.into(),
                ..Default::default()
            };
            let instance = Instance { status, ..instance };
            board.hand_out(&Post { namespace: "default", service: "web", instance: Some(&instance), event: b"" })
        };
        let (serving, starting) = (crate::registry::Status::Serving.into(), crate::registry::Status::Starting.into());
        assert_eq!((from("eu", serving).watches, from("us", serving).watches), (3, 2));
        assert_eq!(from("eu", starting).watches, 1, "only who asked for all statuses");
        drop((all, everywhere, web, other));
        assert_eq!(hand_out(&board, ("default", "web"), "d"), Handed::default());
        assert!(board.boxes.read().unwrap().is_empty() && board.held.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn a_slow_reader_loses_the_oldest_and_is_told_how_many() {
        let board = Arc::<Board>::default();
        let slow = open(&board, vec![filter("", "web", "")]);
        for number in 0..BOX_EVENTS_MAX + 3 {
            let lost = u64::from(number >= BOX_EVENTS_MAX);
            assert_eq!(hand_out(&board, ("default", "web"), &number.to_string()), Handed { watches: 1, lost });
        }
        // In pieces; what was lost is told once.
        let (first, lost) = taken(&slow, 1);
        assert_eq!((first, lost), (vec!["3".to_owned()], 3));
        let (rest, lost) = taken(&slow, usize::MAX);
        assert_eq!((rest.len(), rest[0].as_str(), lost), (BOX_EVENTS_MAX - 1, "4", 0));
        // Large ones push out more.
        let large = "x".repeat(BOX_BYTES_MAX / 2);
        for kind in ["a", "b", large.as_str()] {
            hand_out(&board, ("default", "web"), kind);
        }
        assert_eq!(hand_out(&board, ("default", "web"), &large).lost, 3);
        let (kinds, lost) = taken(&slow, usize::MAX);
        assert_eq!((kinds.len(), lost), (1, 3));
        assert_eq!(board.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_boxes_together_are_bounded() {
        let board = Arc::<Board>::default();
        let boxes: Vec<Letterbox> =
            (0..BOARD_BYTES_MAX / BOX_BYTES_MAX + 64).map(|_| open(&board, vec![filter("", "web", "")])).collect();
        let kind = "x".repeat(16 * 1024);
        for _ in 0..16 {
            hand_out(&board, ("default", "web"), &kind);
        }
        assert!(board.held.load(Ordering::Relaxed) <= BOARD_BYTES_MAX);
        let told: u64 = boxes
            .iter()
            .map(|letterbox| taken(letterbox, usize::MAX))
            .map(|(there, lost)| there.len() as u64 + lost)
            .sum();
        assert_eq!(told, 16 * boxes.len() as u64, "every event is there or counted");
        assert_eq!(board.held.load(Ordering::Relaxed), 0);
    }
}
