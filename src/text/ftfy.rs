//! As much of open_clip's `basic_clean` as follows from rules: ftfy's character fixes and HTML
//! entities.
//!
//! ftfy also repairs text that was decoded with a wrong encoding, by a learned guess: that is not
//! done here. Of HTML's named entities only those of Latin-1 and the commonest others are known.
//! Rules: fixes.py and chardata.py of ftfy 6.3, `html.unescape` of Python.

use tokenizers::NormalizedString;

/// The text with entities, ligatures, wide letters, curled quotes, line breaks and control
/// characters made plain, in Unicode's composed form.
pub(super) fn basic_clean(text: &str) -> String {
    // ftfy takes text with a "<" for HTML that should stay so; Python's `unescape` does not.
    let text = if text.contains('<') { text.to_owned() } else { unescape(text) };
    unescape(&unescape(&plain(&text)))
}

fn plain(text: &str) -> String {
    let text = without_terminal_escapes(text);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {
                if chars.peek() != Some(&'\n') {
                    plain.push('\n');
                }
            }
            '\u{2028}' | '\u{2029}' => plain.push('\n'),
            '\u{80}'..='\u{9f}' => plain.push_str(uncurled(windows_1252(c)).as_str()),
            _ if is_control(c) => {}
            _ => plain.push_str(&uncurled(c)),
        }
    }
    let mut composed = NormalizedString::from(plain);
    composed.nfc();
    composed.get().to_owned()
}

/// `LIGATURES`, `WIDTH_MAP` and the two patterns of quotes.
fn uncurled(c: char) -> String {
    let plain = match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        '\u{3000}' => " ",
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => "'",
        '\u{201c}'..='\u{201f}' => "\"",
        '\u{ff01}'..='\u{ffef}' => {
            let mut narrow = NormalizedString::from(c.to_string());
            narrow.nfkc();
            return narrow.get().to_owned();
        }
        _ => return c.to_string(),
    };
    plain.to_owned()
}

fn is_control(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

/// What the C1 controls, and numeric entities that name them, stand for: bytes of Windows-1252.
fn windows_1252(c: char) -> char {
    const TABLE: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    match c {
        '\u{80}'..='\u{9f}' => TABLE[c as usize - 0x80],
        _ => c,
    }
}

/// Colours and the like: `ESC [ 1 ; 31 m`.
fn without_terminal_escapes(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        let after = &rest[at + 2..];
        let end = after.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(after.len());
        kept.push_str(&rest[..at]);
        rest = match after[end..].starts_with(|c: char| c.is_ascii_alphabetic()) {
            true => &after[end + 1..],
            false => {
                kept.push_str("\u{1b}[");
                after
            }
        };
    }
    kept + rest
}

/// HTML entities as the characters that they name.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        match entity(&rest[1..]) {
            Some((c, len)) => {
                plain.extend(c);
                rest = &rest[1 + len..];
            }
            None => {
                plain.push('&');
                rest = &rest[1..];
            }
        }
    }
    plain + rest
}

/// The entity that the text after "&" begins with, and its length. `None` inside for a number
/// that names no character and is dropped.
fn entity(text: &str) -> Option<(Option<char>, usize)> {
    let end_of = |from: usize, is: fn(&char) -> bool| {
        from + text[from..].chars().take_while(is).map(char::len_utf8).sum::<usize>()
    };
    let semicolon = |end: usize| end + usize::from(text[end..].starts_with(';'));
    if let Some(number) = text.strip_prefix('#') {
        let (from, radix) = if number.starts_with(['x', 'X']) { (2, 16) } else { (1, 10) };
        let end = match radix {
            16 => end_of(from, char::is_ascii_hexdigit),
            _ => end_of(from, char::is_ascii_digit),
        };
        if end == from {
            return None;
        }
        let code = u32::from_str_radix(&text[from..end], radix).unwrap_or(u32::MAX);
        return Some((numbered(code), semicolon(end)));
    }
    let end = end_of(0, char::is_ascii_alphanumeric);
    let known = NAMED.iter().find(|(name, _)| *name == &text[..end])?;
    // A few of the oldest may stand without.
    let closed = text[end..].starts_with(';');
    (closed || known.1 <= 'ÿ').then(|| (Some(known.1), semicolon(end)))
}

fn numbered(code: u32) -> Option<char> {
    match code {
        0 | 0xd800..=0xdfff | 0x11_0000.. => Some('\u{fffd}'),
        0x0d => Some('\r'),
        0x1..=0x8 | 0xe..=0x1f | 0x7f | 0xb | 0xfdd0..=0xfdef => None,
        _ if code & 0xfffe == 0xfffe => None,
        _ => char::from_u32(code).map(windows_1252),
    }
}

/// The commonest entities.
const NAMED: [(&str, char); 52] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("AMP", '&'),
    ("LT", '<'),
    ("GT", '>'),
    ("QUOT", '"'),
    ("nbsp", '\u{a0}'),
    ("iexcl", '¡'),
    ("cent", '¢'),
    ("pound", '£'),
    ("yen", '¥'),
    ("sect", '§'),
    ("copy", '©'),
    ("laquo", '«'),
    ("reg", '®'),
    ("deg", '°'),
    ("plusmn", '±'),
    ("sup2", '²'),
    ("sup3", '³'),
    ("micro", 'µ'),
    ("para", '¶'),
    ("middot", '·'),
    ("raquo", '»'),
    ("frac14", '¼'),
    ("frac12", '½'),
    ("frac34", '¾'),
    ("times", '×'),
    ("szlig", 'ß'),
    ("agrave", 'à'),
    ("aacute", 'á'),
    ("acirc", 'â'),
    ("auml", 'ä'),
    ("ccedil", 'ç'),
    ("egrave", 'è'),
    ("eacute", 'é'),
    ("ecirc", 'ê'),
    ("iacute", 'í'),
    ("ntilde", 'ñ'),
    ("oacute", 'ó'),
    ("ouml", 'ö'),
    ("uacute", 'ú'),
    ("uuml", 'ü'),
    ("ndash", '–'),
    ("mdash", '—'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("hellip", '…'),
    ("euro", '€'),
    ("trade", '™'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_made_plain() {
        for (text, wanted) in [
            ("a &amp; b &amp;lt; &#39;c&#x27; &eacute", "a & b < 'c' é"),
            ("“ﬁne” ’tis\r\nＡ\u{1b}[31mred\u{1b}[0m\u{feff}", "\"fine\" 'tis\nAred"),
            ("e\u{301} & x &nosuch;", "é & x &nosuch;"),
            ("\u{93}x\u{94}", "\"x\""),
        ] {
            assert_eq!(basic_clean(text), wanted, "{text:?}");
        }
    }
}
