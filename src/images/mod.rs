//! From a row's image column to u8 RGB pixels of the model's size.
//!
//! ```text
//! load (row -> encoded bytes) -> decode (bytes -> RGB) -> resize (RGB -> the crop's pixels)
//!                                `------------- preprocess.rs ties these -------------'
//! ```
//!
//! The pixels are those of transformers' `CLIPImageProcessorPil` over Pillow 13, byte for byte
//! (`tests/pixels.rs`). Scaling to floats is not done here: it happens on the device.

mod budget;
pub mod decode;
mod jpeg_out;
pub mod load;
pub mod net;
mod phash;
pub mod preprocess;
pub mod resize;
pub mod thumbnail;

pub use decode::DECODER_BYTES_A_PIXEL;
pub use load::{
    BytesLoader, ImageLoader, LoadError, PathLoader, PlaceLoader, Shard, UrlLoader, holds_bytes,
};
pub use net::FETCHED_BYTES;
pub use phash::phash;
pub use preprocess::Preprocess;
