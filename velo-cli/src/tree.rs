//! Branches as a tree.

/// Puts items in the order of a tree, each with the lines to draw before its name. `parent(i)` is
/// the index of an item's parent; an item whose parent is not there is a root.
pub(crate) fn arrange(parents: &[Option<usize>]) -> Vec<(usize, String)> {
    let mut out = Vec::with_capacity(parents.len());
    let mut seen = vec![false; parents.len()];
    let roots: Vec<usize> = (0..parents.len()).filter(|i| parents[*i].is_none()).collect();
    for root in roots {
        add(parents, root, "", "", &mut seen, &mut out);
    }
    // Records that contradict each other (a cycle) are shown nevertheless.
    let lost = seen.iter().enumerate().filter(|(_, seen)| !**seen);
    out.extend(lost.map(|(i, _)| (i, String::new())));
    out
}

fn add(
    parents: &[Option<usize>],
    at: usize,
    own: &str,
    below: &str,
    seen: &mut [bool],
    out: &mut Vec<(usize, String)>,
) {
    seen[at] = true;
    out.push((at, own.to_owned()));
    let children: Vec<usize> = (0..parents.len()).filter(|i| parents[*i] == Some(at)).collect();
    for (n, child) in children.iter().enumerate() {
        let (branch, line) =
            if n + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let (own, below) = (format!("{below}{branch}"), format!("{below}{line}"));
        add(parents, *child, &own, &below, seen, out);
    }
}

#[cfg(test)]
mod tests {
    use super::arrange;

    #[test]
    fn children_stand_below_their_parents() {
        let drawn: Vec<String> = arrange(&[None, Some(0), Some(0), Some(1), None])
            .into_iter()
            .map(|(i, line)| format!("{line}{i}"))
            .collect();
        assert_eq!(drawn, ["0", "├─ 1", "│  └─ 3", "└─ 2", "4"]);
    }

    #[test]
    fn a_cycle_is_shown_and_ends() {
        assert_eq!(arrange(&[Some(1), Some(0)]).len(), 2);
    }
}
