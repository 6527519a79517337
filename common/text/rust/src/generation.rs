//! `{% generation %}` ... `{% endgeneration %}`: transformers' marks around what the assistant
//! says.

use crate::tags::Tag;
use std::fmt::Write as _;

/// Noncharacters that stand in the rendered text where a generation block begins and ends, until
/// `take_marks` removes them.
pub const OPEN: char = '\u{FDD0}';
pub const CLOSE: char = '\u{FDD1}';
/// Names of the globals that hold them.
pub const OPEN_NAME: &str = "__generation_open";
pub const CLOSE_NAME: &str = "__generation_close";

/// Where a block begins: `with` gives it its own scope, as transformers' call block has.
///
/// The empty `set` next to each global is there for its block tag: it keeps the rules for whitespace
/// and line ends on that side.
pub fn open_tag(out: &mut String, tag: &Tag) {
    let (left, right) = (tag.left, tag.right);
    let _ = write!(out, "{{%{left} with %}}{{{{ {OPEN_NAME} }}}}{{% set __mark = 1 {right}%}}");
}

/// Where a block ends.
pub fn close_tag(out: &mut String, tag: &Tag) {
    let (left, right) = (tag.left, tag.right);
    let _ = write!(out, "{{%{left} set __mark = 1 %}}{{{{ {CLOSE_NAME} }}}}{{% endwith {right}%}}");
}

/// Removes the marks from rendered text; returns the byte ranges that they enclosed, in order.
pub fn take_marks(raw: &str) -> Result<(String, Vec<(usize, usize)>), String> {
    let (mut text, mut spans, mut open) = (String::with_capacity(raw.len()), vec![], vec![]);
    for c in raw.chars() {
        match c {
            OPEN => open.push(text.len()),
            CLOSE => spans
                .push((open.pop().ok_or("a generation block ends that never began")?, text.len())),
            c => text.push(c),
        }
    }
    if !open.is_empty() {
        return Err("a generation block does not end".into());
    }
    spans.sort_unstable();
    Ok((text, spans))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_byte_ranges() {
        assert_eq!(take_marks("é\u{FDD0}ab\u{FDD1}c").unwrap(), ("éabc".into(), vec![(2, 4)]));
        assert!(take_marks("\u{FDD1}").is_err());
        assert!(take_marks("\u{FDD0}").is_err());
    }
}
