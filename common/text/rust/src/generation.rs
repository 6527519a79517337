//! `{% generation %}` ... `{% endgeneration %}`: transformers' marks around what the assistant
//! says.

use std::fmt::Write as _;

/// Noncharacters that stand in the rendered text where a generation block begins and ends, until
/// `take_marks` removes them.
pub const OPEN: char = '\u{FDD0}';
pub const CLOSE: char = '\u{FDD1}';
/// Names of the globals that hold them.
pub const OPEN_NAME: &str = "__generation_open";
pub const CLOSE_NAME: &str = "__generation_close";

/// If `tag` (what follows `{%` and its whitespace mark) is the block tag `name`: its right
/// whitespace mark and what follows it.
fn match_tag<'a>(tag: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let tail = tag.trim_start().strip_prefix(name)?.trim_start();
    let (mark, tail) = if tail.starts_with(['-', '+']) { tail.split_at(1) } else { ("", tail) };
    Some((mark, tail.strip_prefix("%}")?))
}

/// Rewrites the blocks to `{% with %}` and the two globals, keeping whitespace marks; says whether
/// there were any.
///
/// The empty `set` next to each global is there for its block tag: it keeps the rules for
/// whitespace and line ends on that side. `with` gives the block its own scope, as transformers'
/// call block has.
pub fn rewrite(template: &str) -> (String, bool) {
    let (mut out, mut rest, mut found) =
        (String::with_capacity(template.len() + 64), template, false);
    while let Some(at) = rest.find("{%") {
        let after = &rest[at + 2..];
        let (left, tag) =
            if after.starts_with(['-', '+']) { after.split_at(1) } else { ("", after) };
        let tail = if let Some((right, tail)) = match_tag(tag, "endgeneration") {
            out.push_str(&rest[..at]);
            let _ = write!(
                out,
                "{{%{left} set __mark = 1 %}}{{{{ {CLOSE_NAME} }}}}{{% endwith {right}%}}"
            );
            tail
        } else if let Some((right, tail)) = match_tag(tag, "generation") {
            out.push_str(&rest[..at]);
            let _ =
                write!(out, "{{%{left} with %}}{{{{ {OPEN_NAME} }}}}{{% set __mark = 1 {right}%}}");
            tail
        } else {
            out.push_str(&rest[..at + 2]);
            rest = after;
            continue;
        };
        rest = tail;
        found = true;
    }
    out.push_str(rest);
    (out, found)
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
    fn rewrites_only_generation_tags() {
        let (text, found) =
            rewrite("{% if x %}{%- generation -%}a{% endgeneration %}{% endif %}{% generations %}");
        assert!(found);
        assert!(
            text.starts_with("{% if x %}{%- with %}{{ __generation_open }}{% set __mark = 1 -%}a")
        );
        assert!(text.ends_with("{% endif %}{% generations %}"));
        assert!(!rewrite("{{ generation }} {%").1);
    }

    #[test]
    fn marks_become_byte_ranges() {
        assert_eq!(take_marks("é\u{FDD0}ab\u{FDD1}c").unwrap(), ("éabc".into(), vec![(2, 4)]));
        assert!(take_marks("\u{FDD1}").is_err());
        assert!(take_marks("\u{FDD0}").is_err());
    }
}
