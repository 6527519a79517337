//! The block tags of a template's source, found as Jinja's lexer finds them: not inside comments, raw
//! blocks, expressions or string literals.

/// What one tag or expression may hold besides its literals. minijinja's compiler takes a time that
/// grows with the square of a chain of operators, and recurses along it.
const MAX_CODE_BYTES: usize = 8 << 10;

/// `{%- inner -%}`.
pub struct Tag<'a> {
    /// Byte range in the source, delimiters included.
    pub begin: usize,
    pub end: usize,
    /// Whitespace marks: `-`, `+` or nothing.
    pub left: &'a str,
    pub right: &'a str,
    pub inner: &'a str,
}

/// The byte after the literal that begins with the quote at `at`, or the end of the source.
fn skip_literal(source: &[u8], at: usize) -> usize {
    let mut next = at + 1;
    while next < source.len() && source[next] != source[at] {
        next += if source[next] == b'\\' { 2 } else { 1 };
    }
    (next + 1).min(source.len())
}

/// The place of `close` from `at` on, outside literals and brackets; none in a source that is cut off.
fn find_close(source: &[u8], mut at: usize, close: &[u8]) -> Result<Option<usize>, String> {
    let (mut depth, mut code_bytes) = (0usize, 0);
    while at < source.len() {
        if depth == 0 && source[at..].starts_with(close) {
            return Ok(Some(at));
        }
        code_bytes += 1;
        if code_bytes > MAX_CODE_BYTES {
            let line = 1 + source[..at].iter().filter(|byte| **byte == b'\n').count();
            return Err(format!(
                "an expression is over {MAX_CODE_BYTES} bytes (line {line} of the template)"
            ));
        }
        match source[at] {
            b'\'' | b'"' => {
                at = skip_literal(source, at);
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Ok(None)
}

fn split_marks(inside: &str) -> (&str, &str, &str) {
    let left = if inside.starts_with(['-', '+']) { 1 } else { 0 };
    let right = if inside[left..].ends_with(['-', '+']) { inside.len() - 1 } else { inside.len() };
    (&inside[..left], &inside[left..right], &inside[right..])
}

/// All block tags, in order. What follows a tag or an expression that does not end is left out: the
/// template's parser refuses it.
pub fn tags(source: &str) -> Result<Vec<Tag<'_>>, String> {
    let (mut found, bytes, mut at) = (vec![], source.as_bytes(), 0);
    let mut raw = false;
    while let Some(opening) = source[at..].find('{') {
        let begin = at + opening;
        at = begin + 1;
        let close: &[u8] = match bytes.get(begin + 1) {
            Some(b'%') => b"%}",
            Some(b'{') if !raw => b"}}",
            Some(b'#') if !raw => b"#}",
            _ => continue,
        };
        let end = if close == b"#}" {
            source[begin + 2..].find("#}").map(|length| begin + 2 + length)
        } else {
            find_close(bytes, begin + 2, close)?
        };
        let Some(end) = end else { break };
        if close != b"%}" {
            at = end + 2;
            continue;
        }
        let (left, inner, right) = split_marks(&source[begin + 2..end]);
        if raw && inner.trim() != "endraw" {
            continue; // `at` is behind the brace: what looks like a tag may hold the true end
        }
        raw = inner.trim() == "raw";
        at = end + 2;
        found.push(Tag { begin, end: at, left, right, inner });
    }
    Ok(found)
}

/// The first word of a tag, and what follows it.
pub fn split_word(inner: &str) -> (&str, &str) {
    let inner = inner.trim_start();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    inner.split_at(inner.find(|c| !is_name(c)).unwrap_or(inner.len()))
}

/// Cuts `text` before the first of `words` that stands outside literals and brackets.
pub fn split_before_word<'a>(text: &'a str, words: &[&str]) -> (&'a str, &'a str) {
    let (bytes, mut at, mut depth) = (text.as_bytes(), 0, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            b'\'' | b'"' => {
                at = skip_literal(bytes, at);
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            c if c.is_ascii_alphanumeric() || c == b'_' || !c.is_ascii() => {
                let word = split_word(&text[at..]).0;
                if depth == 0 && words.contains(&word) {
                    return text.split_at(at);
                }
                // A character that is no part of a name is no word.
                at += word.len().max(text[at..].chars().next().map_or(1, char::len_utf8));
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inners(source: &str) -> Vec<&str> {
        tags(source).unwrap().iter().map(|tag| tag.inner).collect()
    }

    #[test]
    fn tags_are_found_where_jinja_finds_them() {
        assert_eq!(inners("a{% if x %}b{%- endif -%}"), [" if x ", " endif "]);
        assert_eq!(inners("{# {% a %} #}{{ '{% b %}' }}{{ {'c': {}} }}{% d '%}' %}"), [" d '%}' "]);
        assert_eq!(inners("{% raw %}{% a %}{{ '{% endraw %}{% b %}"), [" raw ", " endraw ", " b "]);
        assert!(inners("{% never ends '%}'").is_empty());
        let [tag] = &tags("é{%+ x -%}").unwrap()[..] else { panic!() };
        assert_eq!((tag.begin, tag.end, tag.left, tag.right), (2, 11, "+", "-"));
        let long = format!("\n{{{{ x{} }}}}", "~x".repeat(5000));
        assert_eq!(
            tags(&long).err().unwrap(),
            "an expression is over 8192 bytes (line 2 of the template)"
        );
        assert!(inners(&format!("{{{{ '{}' }}}}", "~".repeat(10_000))).is_empty());
    }

    #[test]
    fn words_are_found_outside_brackets_and_literals() {
        let text = "f(a if b) ~ 'if' ~ life | é if c";
        assert_eq!(split_before_word(text, &["if"]), ("f(a if b) ~ 'if' ~ life | é ", "if c"));
        assert_eq!(split_before_word("x", &["if"]), ("x", ""));
    }
}
