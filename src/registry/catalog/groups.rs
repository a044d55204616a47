//! A graph in an order in which what is needed comes first, and those in it that need one another. Walks graphs of any
//! depth without recursion, each edge once.

use std::collections::HashMap;

use smol_str::SmolStr;

/// A walk that is under way (Tarjan's).
struct Walk<'a> {
    places: HashMap<&'a str, usize>,
    names: Vec<&'a str>,
    /// The first of those that a node is known to lead back to.
    lows: Vec<usize>,
    /// Whether it may still turn out to be of a group.
    open: Vec<bool>,
    opened: Vec<usize>,
    /// Where the walk is: a node, and how many of its neighbours were looked at.
    calls: Vec<(usize, usize)>,
}

impl<'a> Walk<'a> {
    fn enter(&mut self, name: &'a str) {
        let place = self.names.len();
        self.places.insert(name, place);
        self.names.push(name);
        self.lows.push(place);
        self.open.push(true);
        self.opened.push(place);
        self.calls.push((place, 0));
    }

    /// A node of which everything was looked at: the group that is complete with it, if there is one.
    fn leave(&mut self, node: usize) -> Option<Vec<&'a str>> {
        self.calls.pop();
        if let Some((parent, _)) = self.calls.last() {
            self.lows[*parent] = self.lows[*parent].min(self.lows[node]);
        }
        if self.lows[node] != node {
            return None;
        }
        let first = self.opened.iter().rposition(|place| *place == node).unwrap_or(0);
        let group = self.opened.split_off(first);
        group.iter().for_each(|place| self.open[*place] = false);
        Some(group.into_iter().map(|place| self.names[place]).collect())
    }
}

/// Everything that `starts` lead to, what is needed first. Those that need one another, by however many others, are one
/// group; whoever does not is one by itself.
pub fn groups<'a>(
    starts: impl IntoIterator<Item = &'a str>,
    neighbours: impl Fn(&str) -> &'a [SmolStr],
) -> Vec<Vec<&'a str>> {
    let mut walk = Walk {
        places: HashMap::new(),
        names: Vec::new(),
        lows: Vec::new(),
        open: Vec::new(),
        opened: Vec::new(),
        calls: Vec::new(),
    };
    let mut groups = Vec::new();
    for start in starts {
        if walk.places.contains_key(start) {
            continue;
        }
        walk.enter(start);
        while let Some((node, looked)) = walk.calls.last_mut() {
            let node = *node;
            let Some(next) = neighbours(walk.names[node]).get(*looked) else {
                groups.extend(walk.leave(node));
                continue;
            };
            *looked += 1;
            match walk.places.get(next.as_str()) {
                None => walk.enter(next),
                Some(at) if walk.open[*at] => walk.lows[node] = walk.lows[node].min(*at),
                Some(_) => {}
            }
        }
    }
    groups
}
