//! How lists grow of which there are many. Knows nothing of what is in them.

/// Room for one more, and for few others: most lists are short, and stay as they are. A vector's own way, twice as much
/// each time and four at first, would leave a third of their memory empty.
pub fn make_room<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 4).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_left_empty_and_few_moves_are_made() {
        let (mut list, mut moves) = (Vec::new(), 0);
        for length in 1..=10_000_usize {
            let before = list.capacity();
            make_room(&mut list);
            list.push(7_u64);
            moves += u32::from(list.capacity() != before);
            assert!(list.capacity() <= (length + length / 4).max(4), "{length}: {}", list.capacity());
        }
        assert!(moves < 45, "{moves}");
    }
}
