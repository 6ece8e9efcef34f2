//! How commands print: plain aligned tables on stdout, numbers as people write them.

use std::io::Write;

use comfy_table::{CellAlignment, Table, presets};

use crate::error::{Error, disarmed};

/// Writes to stdout. A reader that went away (`| head`) is not an error.
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(disarmed(text).as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("write to", "stdout")(error))
        }
        _ => Ok(()),
    }
}

/// A table without lines. Columns named in `right` (by index) are aligned to the right.
pub fn table(header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table.add_rows(rows);
    for index in right {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// `1234567` as `1,234,567`.
pub fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// `1 part`, `2 parts`.
pub fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Bytes in the unit that fits.
pub fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// A text from the data for one line of a terminal: control characters shown, not obeyed, and cut
/// to `most` characters.
pub fn one_line(text: &str, most: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut short: String = clean.clone().take(most).collect();
    if clean.count() > most {
        short.pop();
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_disarms_control_characters_and_cuts_by_characters() {
        assert_eq!(one_line("a\x1b[31m\nb", 80), "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(one_line("äöüß", 3), "äö…");
        assert_eq!(one_line("äöü", 3), "äöü");
    }
}
