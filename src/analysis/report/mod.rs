//! A page for people about a scored table: what `clipmill report` writes.
//!
//! ```text
//! Table --columns--> survey (pass 1) --ruler, groups--> tally (pass 2) --> Data --> html (chart)
//! ```
//!
//! Both passes are in bounded memory (`fold`): about 0.3 MB for the scores and for each group, at
//! most eight times at once, and 20,000 values of a column to group by. Images are not known here:
//! whoever asks for the page brings [`Thumbnails`].

mod captions;
mod chart;
mod columns;
mod data;
mod drift;
mod fold;
mod html;
mod ruler;
mod sections;
mod survey;
mod tally;
mod values;

pub use columns::{Columns, Made};
pub use data::{Data, Group, Groups, Old, Scores};
pub use drift::{Drift, Verdict};
pub use html::{Facts, page};
pub use tally::Pair;

/// A small picture, or why there is none, in a word and a sentence.
pub type Thumbnail = Result<Picture, (String, String)>;

/// A JPEG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub jpeg: Vec<u8>,
}

/// Makes the pictures of a page.
pub trait Thumbnails {
    /// The pictures of some values of the image column, in order, of at most about `bytes`
    /// together.
    fn make(&self, images: &[&[u8]], bytes: usize) -> Vec<Thumbnail>;
}
