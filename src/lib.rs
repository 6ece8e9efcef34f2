//! clipmill scores image-text datasets with CLIP: Parquet in, the same rows with embeddings,
//! similarity and a status out. This page is its architecture.
//!
//! # What it promises
//!
//! 1. One output row per input row, in the same order, with every input column. A row that failed
//!    is data: nulls, a `status`, an `error_message`. Of an output that grows with its input
//!    (`--incremental`), files are in the order in which they came.
//! 2. A part file is absent or complete, at every instant, whatever is killed.
//! 3. The output says how it was made, and a run refuses to mix two ways.
//! 4. The scores are the reference's: pixels bit-identical to Pillow behind transformers'
//!    `CLIPImageProcessor`, embeddings within float noise of its `CLIPModel`; so for each family.
//! 5. Memory is bounded by the plan, never by the data.
//!
//! # One direction
//!
//! ```text
//! pipelines/x.toml --> PipelineSpec --> Plan --> run()
//!
//! Source --RowBatch-->[2]--> prepare --PreparedBatch-->[2]--> encode --EncodedBatch--> write --> parts
//! thread                     thread + rayon pool              one thread a device      main thread
//!                            load, decode, resize, tokenize   owns its model, no_grad  Column::fill, Sink
//!                                   ^ RowError is *in* the batch: row i failed, and why
//!                                   `-- slots, in order: where each batch comes out -->
//! ```
//!
//! Each arrow is a type; a batch that skipped a stage does not compile. Every channel is bounded.
//! Good rows are packed before the device and scattered back, with nulls, when columns are filled.
//! Pixels travel as u8, as patches where images keep their shape, and are normalised on the device.
//! What runs follows from the declared columns: no column that needs the text tower, no text tower.
//! What rows of a batch share is done once: an image that several name is decoded once, equal pixels
//! and equal captions are encoded once. What models share is done once too: a batch has its pixels
//! in each form that some model wants, and its captions as each tokenizer reads them. Images that
//! are waited for (URLs) are announced some batches before they are loaded, and fetched meanwhile,
//! so many at once and within a budget of bytes.
//!
//! Devices take batches from one queue and are given the next one before the results of the last
//! are read; each batch brings the slot in which the writer waits for it, so rows keep their order
//! and a slow device holds up no more memory than there are slots.
//!
//! # What is done with the scores
//!
//! [`table`] reads a run's output, or anybody's Parquet, by columns and row groups, and writes tables
//! anew; [`analysis`] says what of them (`label`, `cluster`, `dedup`, `filter`, `export`, `search`,
//! `report`). Each is a command and a section of the pipeline file: `command/steps.rs` runs them in
//! that order once a run's parts are complete, each over what the one before wrote.
//!
//! # The sums
//!
//! What a row costs, from the shapes (a multiplication and an addition are 2 FLOP; captions of 16
//! tokens, the text tower's 77 would cost five times as much):
//!
//! | | ViT-B/32 | ViT-L/14 |
//! |---|---|---|
//! | image tower | 12 blocks x 50 tokens x 24 x 768^2, + patches: 8.8 GFLOP | 24 x 257 x 24 x 1024^2, + attention: 162 GFLOP |
//! | text tower | 12 x 16 x 24 x 512^2: 1.2 GFLOP | 12 x 16 x 24 x 768^2: 2.7 GFLOP |
//! | to the device | 3 x 224 x 224 pixels as u8: 150,528 bytes, + 16 a token | the same |
//! | from the device | 2 x 512 x 4 bytes: 4 kB | 2 x 768 x 4: 6 kB |
//!
//! So a device that computes `F` FLOP/s eats at most `F / 10.0e9` rows a second of B/32 and
//! `F / 165e9` of L/14, and takes `150 kB` of each over its bus. At the 989 TFLOP/s in f16 of an
//! H100's data sheet, which no model reaches, that is 98,900 and 6,000 rows/s, and 14.9 and 0.9
//! GB/s of the 64 of its bus: the bus is never the limit. A core decodes and resizes `P` images a
//! second (`make bench` measures it; tests/bench/README.md has 1,787 for photos of web
//! size on Zen 5), so such a device is fed by `rows/s / P` cores: at half of its peak by about 28
//! for B/32 and 2 for L/14. With fewer, the cores are the limit and a faster device gains nothing;
//! on a CPU it is the towers.
//!
//! On CUDA f32 products stay f32: LibTorch's TF32 for matrix products is off by default and
//! nothing here turns it on.
//!
//! # Where things live, and who may import whom
//!
//! | module | is | imports of ours |
//! |---|---|---|
//! | [`error`] | `Error` stops the run, `RowError` becomes data; exit codes | |
//! | [`clock`] | instants as RFC 3339 writes them | |
//! | [`log`] | what is said on stderr, as lines or as JSON | `clock error` |
//! | [`contain`] | panics on strangers' bytes as values; child processes for what is worse | |
//! | [`digest`] | SHA-256 | `error` |
//! | [`store`] | objects of S3, Google's and Azure's stores as if they were files; leases | `digest error log` |
//! | [`watched`] | a file or an object to read Parquet from | `error store` |
//! | [`files`] | publishing files whole, on a disk or in a store; an output's locks, and what else is there beside its parts | `digest error regular store watched` |
//! | [`regular`] | files that others gave us: regular, of a sane size | |
//! | [`crash`] | images that kill the process: the journal of what is in flight, trials in a child | `error digest files` |
//! | [`travel`] | strings as views of the file's bytes, on their way through and back | |
//! | [`vectors`] | the vectors of an embedding column, whatever list they are stored in | |
//! | [`spec`] | the pipeline file field for field; `layers`: file + command line | `error` |
//! | [`batch`] | what travels between the stages | `error` |
//! | [`source`] | `Source`: rows in, part by part | `error batch contain digest store travel watched` |
//! | [`images`] | `ImageLoader` (paths, bytes, places in shards; URLs, by `net`), decoding within limits, Pillow's resampling, `Preprocess` | `error batch contain regular spec store travel` |
//! | [`text`] | `Tokenizer`: captions to ids | `error spec batch regular` |
//! | [`model`] | `DualEncoder`; weights, device; families' folders, the towers of all; heads | `error spec batch digest regular` |
//! | [`score`] | formulas | |
//! | [`columns`] | every output column: name, Arrow field, how it is filled | `error spec batch model score` |
//! | [`sink`] | `Sink`: part files, published whole, sealed; `StreamSink`: an Arrow stream | `error contain digest files travel watched` |
//! | [`manifest`] | what was done, from what, with what; which crash window does what | `error crash digest files` |
//! | [`table`] | anybody's Parquet files read as one table; a table written anew, several row groups at once | `error files manifest sink source spec travel vectors` |
//! | [`analysis`] | what can be said of a scored table, and done with it; products by `tch`, no model | `error contain digest files regular score sink spec store table travel vectors watched` |
//! | [`progress`] | counters of a run, and the only code that draws them | `error log model` |
//! | [`hub`] | model folders from the Hugging Face hub, in the cache of its Python client | `error digest log model progress regular spec` |
//! | [`report`] | `run_report.json`, and its schema beside it | `analysis clock error files model progress` |
//! | [`observe`] | what a run tells those who look after it: metrics, lineage events | `analysis clock error log progress report store` |
//! | [`prepare`] | the second stage's work on one batch | `error batch crash digest images text vectors` |
//! | [`encode`] | the third stage's | `error batch model` |
//! | [`mod@write`] | the last stage's: `Writer`: parts and the manifest, parts that are asked for, or a stream | `error spec batch columns manifest sink source` |
//! | [`run`] | stage threads, channels, join; knows traits, not what is behind them | `error batch encode model prepare progress source write` |
//! | [`plan`] | the spec resolved against disk and device; knows every builder | anything |
//! | [`cli`], [`command`] | clap structs; one file a subcommand | anything |
//!
//! `tests/architecture.rs` enforces the third column.
//!
//! # What a newcomer edits
//!
//! | to add | edit | proof |
//! |---|---|---|
//! | an image source | `images/load.rs`, `images/load/` + a [`spec::ImageSpec`] variant | a row in `bad_rows_are_kept_with_their_status` of `tests/failures.rs` |
//! | a model family | `model/family/`, `images/preprocess/`, `text/` + a [`spec::Family`] | an oracle test like `tests/siglip.rs` |
//! | a score column | `score.rs` + a [`spec::ColumnSpec`] variant | a hand-computed unit test, a README row |
//! | an activation of heads | `model/head.rs` + a [`spec::HeadActivation`] variant | a head in `tests/oracle/heads.py` |
//! | a pipeline | copy a TOML in `pipelines/` | `tests/pipelines.rs` walks the folder |
//!
//! Closed enums and exhaustive `match`: add a variant and the compiler lists the rest.
#![cfg_attr(not(test), warn(clippy::panic, clippy::unwrap_used))]

pub mod analysis;
pub mod batch;
pub mod cli;
pub mod clock;
pub mod columns;
pub mod command;
pub mod contain;
pub mod crash;
pub mod digest;
pub mod encode;
pub mod error;
pub mod files;
pub mod hub;
pub mod images;
pub mod log;
pub mod manifest;
pub mod model;
pub mod observe;
pub mod plan;
pub mod prepare;
pub mod progress;
pub mod regular;
pub mod report;
pub mod run;
pub mod score;
pub mod sink;
pub mod source;
pub mod spec;
pub mod store;
pub mod table;
pub mod text;
pub mod travel;
pub mod vectors;
pub mod watched;
pub mod write;
