//! Dependencies: chains and cycles as long as they come, and every rule against a table of who reaches whom.

use proptest::prelude::*;

use super::*;

fn name(number: usize) -> SmolStr {
    format!("app-{number}").into()
}

fn needs(graph: &mut Dependencies, id: usize, dependencies: &[usize]) {
    graph.set(&name(id), dependencies.iter().map(|dependency| name(*dependency)).collect());
}

/// Each needs the next.
fn chain(length: usize) -> Dependencies {
    let mut graph = Dependencies::default();
    (0..length).for_each(|id| needs(&mut graph, id, if id + 1 < length { vec![id + 1] } else { vec![] }.as_slice()));
    graph
}

#[test]
fn a_chain_of_100_000() {
    const LENGTH: usize = 100_000;
    let graph = chain(LENGTH);
    let order = graph.start_order(None).unwrap();
    assert_eq!(order.len(), LENGTH);
    assert_eq!((&order[0], &order[LENGTH - 1]), (&vec![name(LENGTH - 1)], &vec![name(0)]));
    let shape = graph.shape().unwrap();
    assert_eq!((shape.applications, shape.dependencies, shape.depth), (LENGTH, LENGTH - 1, LENGTH));
    assert_eq!((shape.roots, shape.leaves), (vec![name(0)], vec![name(LENGTH - 1)]));
    assert_eq!(graph.affected_by(&name(LENGTH - 1)).len(), LENGTH - 1);
    assert_eq!(graph.circular(&name(LENGTH - 1), &[name(0)]), [&name(0)]);
    assert!(graph.circular(&name(0), &[name(LENGTH - 1)]).is_empty());
}

#[test]
fn a_cycle_of_10_000() {
    const LENGTH: usize = 10_000;
    let mut graph = chain(LENGTH);
    needs(&mut graph, LENGTH - 1, &[0]);
    // Someone who only leads to it, and someone who has nothing to do with it.
    needs(&mut graph, LENGTH, &[7]);
    needs(&mut graph, LENGTH + 1, &[]);
    let Cycle(cycle) = graph.start_order(None).unwrap_err();
    assert_eq!(cycle.len(), LENGTH);
    for (id, next) in cycle.iter().zip(cycle.iter().cycle().skip(1)) {
        assert_eq!(graph.of(id), std::slice::from_ref(next));
    }
    assert!(graph.shape().is_err());
    assert_eq!(graph.start_order(Some(&[name(LENGTH + 1)])).unwrap(), [[name(LENGTH + 1)]]);
}

#[test]
fn a_start_takes_what_it_needs() {
    let mut graph = Dependencies::default();
    for (id, dependencies) in [(0, &[][..]), (1, &[0]), (2, &[0]), (3, &[2, 0]), (4, &[])] {
        needs(&mut graph, id, dependencies);
    }
    assert_eq!(graph.start_order(Some(&[name(3)])).unwrap(), [[name(0)], [name(2)], [name(3)]]);
    let all = graph.start_order(None).unwrap();
    assert_eq!(all, [vec![name(0), name(4)], vec![name(1), name(2)], vec![name(3)]]);
    assert_eq!(graph.affected_by(&name(0)), [vec![name(1), name(2), name(3)]]);
    assert_eq!(graph.affected_by(&name(2)), [vec![name(3)]]);
    assert!(graph.affected_by(&name(4)).is_empty());
    assert_eq!(graph.shape().unwrap().roots, [name(1), name(3), name(4)]);
}

const NODES: usize = 9;

/// Who reaches whom by one dependency or more.
fn reach(edges: &[[bool; NODES]; NODES]) -> [[bool; NODES]; NODES] {
    let mut reach = *edges;
    for by in 0..NODES {
        for from in 0..NODES {
            for to in 0..NODES {
                reach[from][to] |= reach[from][by] && reach[by][to];
            }
        }
    }
    reach
}

fn level(edges: &[[bool; NODES]; NODES], of: usize) -> usize {
    (0..NODES).filter(|to| edges[of][*to]).map(|to| level(edges, to) + 1).max().unwrap_or(0)
}

proptest! {
    /// Whatever is wanted in whatever order: what would close a cycle is found, all of it and nothing else, and the
    /// start order puts each application into the first level that it can be in.
    #[test]
    fn agrees_with_the_table(
        wishes in proptest::collection::vec((0..NODES, proptest::collection::btree_set(0..NODES, 0..5)), 1..40),
    ) {
        let mut graph = Dependencies::default();
        let mut edges = [[false; NODES]; NODES];
        (0..NODES).for_each(|id| needs(&mut graph, id, &[]));
        for (id, wanted) in wishes {
            let wanted: Vec<usize> = wanted.into_iter().collect();
            let reach = reach(&edges);
            let circular: Vec<SmolStr> =
                wanted.iter().filter(|to| **to == id || reach[**to][id]).map(|to| name(*to)).collect();
            let names: Vec<SmolStr> = wanted.iter().map(|to| name(*to)).collect();
            prop_assert_eq!(graph.circular(&name(id), &names), circular.iter().collect::<Vec<_>>());
            if circular.is_empty() {
                needs(&mut graph, id, &wanted);
                edges[id] = std::array::from_fn(|to| wanted.contains(&to));
            }
        }
        let order = graph.start_order(None).unwrap();
        let reach = reach(&edges);
        for id in 0..NODES {
            prop_assert!(order[level(&edges, id)].contains(&name(id)));
            let affected: std::collections::BTreeSet<_> = graph.affected_by(&name(id)).concat().into_iter().collect();
            let wanted = (0..NODES).filter(|from| reach[*from][id]).map(name).collect();
            prop_assert_eq!(affected, wanted);
        }
        prop_assert_eq!(order.concat().len(), NODES);
        prop_assert_eq!(graph.shape().unwrap().depth, order.len());
    }
}
