//! Shadow text: which message and field did each part of a rendered chat come from?
//!
//! Render again with each character of each message field replaced one for one by a code point of
//! its own, so that trims, slices and splits keep working; every position of the second text then
//! names its source. The first text stays the truth: the second counts only if it maps back to the
//! first exactly, character by character.
//!
//! A template may look at what the text says (`'</think>' in content`), so characters inside
//! literals of the template are spared. Sparing more costs traceability where a field holds nothing
//! else, so the steps go from few literals to all. Quotes, brackets and control characters are
//! never replaced, since JSON escapes them; whitespace at a field's edge becomes rare Unicode
//! whitespace, so that trims still trim, or stays as it is in the next step. In later steps equal
//! fields get equal shadows, for templates that compare messages with each other. A field that
//! would show no trace at all, a lone quote say, is replaced whole at first, and spared only in the
//! second half of the steps.

use crate::template::{holds_any, ChatTemplate};
use serde_json::Value as Json;
use std::collections::{BTreeSet, HashMap};

/// Planes 4 to 13 hold no assigned characters, so that no real text meets them and no case mapping
/// moves them.
const FIRST: u32 = 0x40000;
const LAST: u32 = 0xDFFFF;
const CAPACITY: usize = (LAST - FIRST + 1) as usize;
const NEVER_MAPPED: &[char] = &['"', '\\', '<', '>', '&', '\''];
/// Keys whose values steer the template and are not text of the message.
const SKIPPED_KEYS: &[&str] = &["role", "type", "id", "tool_call_id"];
/// Whitespace at an edge and what stands for it.
const EDGES: &[(char, char)] =
    &[(' ', '\u{2002}'), ('\n', '\u{2028}'), ('\t', '\u{2003}'), ('\r', '\u{2029}')];

/// A byte range of the rendered text and the field it came from (an index into
/// `Attribution::fields`).
#[derive(Debug, PartialEq, Clone, Copy)]
pub struct Range {
    pub begin: usize,
    pub end: usize,
    pub message: u32,
    pub field: u32,
}

pub struct Attribution {
    /// In order, disjoint. Text of the template itself is in none.
    pub ranges: Vec<Range>,
    /// Paths within messages, e.g. `content` or `tool_calls[0].function.name`.
    pub fields: Vec<String>,
}

struct Field {
    message: usize,
    path: String,
    pointer: String, // RFC 6901, within the list of messages
    text: Vec<char>,
}

/// One way of making shadows.
#[derive(Clone, Copy)]
struct Step {
    spare_all_literals: bool,
    replace_edges: bool,
    share_equal_fields: bool,
    replace_untraced_fields: bool,
}

/// From the finest trace to the most sparing.
fn steps() -> impl Iterator<Item = Step> {
    (0..16).map(|bits| Step {
        replace_edges: bits & 1 == 0,
        spare_all_literals: bits & 2 != 0,
        share_equal_fields: bits & 4 != 0,
        replace_untraced_fields: bits & 8 == 0,
    })
}

fn is_shadow(c: char) -> bool {
    (FIRST..=LAST).contains(&(c as u32))
}

fn collect_fields(
    value: &Json,
    message: usize,
    path: String,
    pointer: String,
    out: &mut Vec<Field>,
) {
    match value {
        Json::Object(map) => {
            for (key, item) in map.iter().filter(|(key, _)| !SKIPPED_KEYS.contains(&key.as_str())) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                collect_fields(item, message, path, pointer, out);
            }
        }
        Json::Array(list) => {
            for (i, item) in list.iter().enumerate() {
                collect_fields(
                    item,
                    message,
                    format!("{path}[{i}]"),
                    format!("{pointer}/{i}"),
                    out,
                );
            }
        }
        Json::String(text) if !text.is_empty() => {
            out.push(Field { message, path, pointer, text: text.chars().collect() })
        }
        _ => {}
    }
}

/// The string literals inside `{{ }}` and `{% %}`.
fn literals(template: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let chars: Vec<char> = template.chars().collect();
    let (mut i, mut inside) = (0, false);
    while i + 1 < chars.len() {
        match (inside, chars[i], chars[i + 1]) {
            (false, '{', '{' | '%') => {
                inside = true;
                i += 2;
            }
            (true, '%' | '}', '}') => {
                inside = false;
                i += 2;
            }
            (true, quote @ ('\'' | '"'), _) => {
                let (text, next) = read_literal(&chars, i + 1, quote);
                if !text.is_empty() {
                    found.insert(text);
                }
                i = next;
            }
            _ => i += 1,
        }
    }
    found
}

/// Reads a literal's text from `begin` to its closing quote; returns the index after it.
fn read_literal(chars: &[char], begin: usize, quote: char) -> (String, usize) {
    let (mut text, mut i) = (String::new(), begin);
    while i < chars.len() && chars[i] != quote {
        if chars[i] == '\\' && i + 1 < chars.len() {
            i += 1;
            text.push(match chars[i] {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            });
        } else {
            text.push(chars[i]);
        }
        i += 1;
    }
    (text, i + 1)
}

/// Marks the characters of `text` that lie inside an occurrence of one of `spared`.
fn spared_mask(text: &[char], spared: &[Vec<char>]) -> Vec<bool> {
    let mut mask = vec![false; text.len()];
    for literal in spared.iter().filter(|literal| literal.len() <= text.len()) {
        for at in 0..=text.len() - literal.len() {
            if text[at] == literal[0] && text[at..at + literal.len()] == literal[..] {
                mask[at..at + literal.len()].fill(true);
            }
        }
    }
    mask
}

/// The shadows of all fields, and the field and character that each shadow code point stands for.
struct Shadows {
    texts: Vec<Vec<char>>,
    table: Vec<(usize, usize)>,
    /// Fields with the same shadow as a field, itself first; only where equal fields share.
    groups: HashMap<usize, Vec<usize>>,
}

fn make_shadows(fields: &[Field], spared: &[Vec<char>], step: Step) -> Shadows {
    let mut shadows = Shadows { texts: vec![], table: vec![], groups: HashMap::new() };
    let mut first_with: HashMap<&[char], usize> = HashMap::new();
    for (index, field) in fields.iter().enumerate() {
        if step.share_equal_fields {
            let first = *first_with.entry(&field.text).or_insert(index);
            shadows.groups.entry(first).or_default().push(index);
            if first != index {
                shadows.texts.push(shadows.texts[first].clone());
                continue;
            }
        }
        let mut spare = spared_mask(&field.text, spared);
        for (spare, c) in spare.iter_mut().zip(&field.text) {
            *spare |= NEVER_MAPPED.contains(c);
        }
        let is_text = |c: &char| !c.is_whitespace() && (*c as u32) >= 0x20;
        let traced = field.text.iter().zip(&spare).any(|(c, spare)| is_text(c) && !spare);
        if !traced && step.replace_untraced_fields {
            spare.fill(false);
        }
        let start = field.text.iter().take_while(|c| c.is_whitespace()).count();
        let end =
            field.text.len() - field.text.iter().rev().take_while(|c| c.is_whitespace()).count();
        let shadow = field.text.iter().enumerate().map(|(at, &c)| {
            let edge = EDGES
                .iter()
                .find(|(plain, _)| *plain == c)
                .filter(|_| step.replace_edges && (at < start || at >= end));
            if let Some((_, rare)) = edge {
                return *rare;
            }
            if spare[at] || !is_text(&c) {
                return c;
            }
            shadows.table.push((index, at));
            char::from_u32(FIRST + shadows.table.len() as u32 - 1)
                .expect("planes 4 to 13 hold no surrogates")
        });
        let shadow = shadow.collect();
        shadows.texts.push(shadow);
    }
    shadows
}

/// For each character of `text` the field and character it came from; None if `text` does not map
/// back to `truth`.
fn map_back(
    text: &[char],
    truth: &[char],
    fields: &[Field],
    shadows: &Shadows,
    step: Step,
) -> Option<Vec<Option<(usize, usize)>>> {
    if text.len() != truth.len() {
        return None;
    }
    let mut owners = vec![None; text.len()];
    // Of each group of equal fields: which of them is being shown, and its last character so far.
    let mut turns: HashMap<usize, (usize, usize)> = HashMap::new();
    for (at, (&c, &plain)) in text.iter().zip(truth).enumerate() {
        if is_shadow(c) {
            let (field, character) = *shadows.table.get((c as u32 - FIRST) as usize)?;
            if fields[field].text[character] != plain {
                return None;
            }
            let mut owner = field;
            if let Some(group) = shadows.groups.get(&field) {
                // Equal fields are told apart by order: when a character comes round again, the
                // next field is being shown.
                let (turn, last) = turns
                    .entry(field)
                    .and_modify(|(turn, last)| *turn += usize::from(character <= *last))
                    .or_default();
                *last = character;
                owner = group[(*turn).min(group.len() - 1)];
            }
            owners[at] = Some((owner, character));
        } else if c != plain {
            let restored =
                EDGES.iter().any(|(edge, rare)| step.replace_edges && c == *rare && plain == *edge);
            if !restored {
                return None;
            }
        }
    }
    Some(owners)
}

/// Characters of a field that were not replaced take their neighbour's owner as long as the field's
/// text goes on.
fn extend_to_neighbours(owners: &mut [Option<(usize, usize)>], text: &[char], shadows: &Shadows) {
    let continues = |owner: Option<(usize, usize)>, step: isize, c: char| {
        let (field, character) = owner?;
        let next = character.checked_add_signed(step)?;
        let expected = *shadows.texts[field].get(next)?;
        (!is_shadow(expected) && expected == c).then_some((field, next))
    };
    for at in 1..text.len() {
        if owners[at].is_none() {
            owners[at] = continues(owners[at - 1], 1, text[at]);
        }
    }
    for at in (0..text.len().saturating_sub(1)).rev() {
        if owners[at].is_none() {
            owners[at] = continues(owners[at + 1], -1, text[at]);
        }
    }
}

fn to_ranges(owners: &[Option<(usize, usize)>], truth: &[char], fields: &[Field]) -> Vec<Range> {
    let mut ranges: Vec<Range> = vec![];
    let mut byte = 0;
    for (owner, c) in owners.iter().zip(truth) {
        let end = byte + c.len_utf8();
        if let Some((field, _)) = *owner {
            match ranges.last_mut().filter(|last| last.end == byte && last.field == field as u32) {
                Some(last) => last.end = end,
                None => ranges.push(Range {
                    begin: byte,
                    end,
                    message: fields[field].message as u32,
                    field: field as u32,
                }),
            }
        }
        byte = end;
    }
    ranges
}

/// `messages` must be normalised and `truth` be their rendering without generation prompt.
pub fn attribute(
    template: &ChatTemplate,
    messages: &Json,
    tools: &Json,
    truth: &str,
) -> Result<Attribution, String> {
    if truth.contains(is_shadow) || holds_any(messages, &is_shadow) {
        return Err("the text holds code points of planes 4 to 13, which are not assigned".into());
    }
    let mut fields = vec![];
    for (index, message) in messages.as_array().map_or(&[][..], Vec::as_slice).iter().enumerate() {
        collect_fields(message, index, String::new(), format!("/{index}"), &mut fields);
    }
    if fields.iter().map(|field| field.text.len()).sum::<usize>() > CAPACITY {
        return Err(format!("the messages hold more than {CAPACITY} characters"));
    }
    let all_literals: Vec<Vec<char>> =
        literals(template.source()).iter().map(|text| text.chars().collect()).collect();
    let punctuated: Vec<Vec<char>> = all_literals
        .iter()
        .filter(|text| text.iter().any(char::is_ascii_punctuation))
        .cloned()
        .collect();
    let truth: Vec<char> = truth.chars().collect();
    for step in steps() {
        let spared = if step.spare_all_literals { &all_literals } else { &punctuated };
        let shadows = make_shadows(&fields, spared, step);
        let mut shadowed = messages.clone();
        for (field, shadow) in fields.iter().zip(&shadows.texts) {
            let place = shadowed
                .pointer_mut(&field.pointer)
                .expect("the pointer was made from these messages");
            *place = Json::String(shadow.iter().collect());
        }
        let Ok(rendered) = template.render(&shadowed, tools, false) else { continue };
        let text: Vec<char> = rendered.text.chars().collect();
        if let Some(mut owners) = map_back(&text, &truth, &fields, &shadows, step) {
            extend_to_neighbours(&mut owners, &text, &shadows);
            let ranges = to_ranges(&owners, &truth, &fields);
            return Ok(Attribution {
                ranges,
                fields: fields.into_iter().map(|field| field.path).collect(),
            });
        }
    }
    Err("the template depends on what the messages say in a way that cannot be traced".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_those_of_tags_and_expressions() {
        let found = literals(r#"it's {{ 'a}}b' ~ "c\n" }}'d'{% if x == '\'' %}"e"{% endif %}"#);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["'", "a}}b", "c\n"]);
    }
}
