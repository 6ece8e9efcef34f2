//! What can go wrong, in two kinds: `Error` stops the run, `RowError` becomes data.
//!
//! Messages are lower-case, name the thing and say the cure. `main` has the chain of sources said
//! once (`log`) and exits with [`Error::exit_code`]. Nothing here decides what to do about an error.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The boxed cause of an [`Error`], whichever library it comes from.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a command stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pipeline file or a `--set` does not say something that clipmill understands.
    #[error("could not read the pipeline file {}\n{detail}", path.display())]
    Spec { path: PathBuf, detail: String },

    /// An override on the command line that does not fit the pipeline file.
    #[error("`--set {set}`: {detail}")]
    Set { set: String, detail: String },

    /// A setting that is well-formed and makes no sense, or does not fit another.
    #[error("{key}: {problem}")]
    Setting { key: String, problem: String },

    /// A file or folder that has to be there.
    #[error("{what} {} does not exist{hint}", path.display())]
    NotFound { what: &'static str, path: PathBuf, hint: String },

    /// A folder or glob that holds no input.
    #[error("no Parquet files in {}: expected files that end in .parquet; files in sub-folders are found by a glob such as 'DIR/**/*.parquet'", path.display())]
    NoInput { path: PathBuf },

    /// A column that the pipeline names and the input lacks.
    #[error("{} has no column \"{column}\"{hint}", path.display())]
    NoColumn { path: PathBuf, column: String, hint: String },

    /// A column that is there and of a type that cannot be used.
    #[error("column \"{column}\" of {} is {found}; {wanted}", path.display())]
    ColumnType { path: PathBuf, column: String, found: String, wanted: String },

    /// An output column that the input already has.
    #[error("output column \"{column}\" is already a column of {}: under [columns], write `clip_{column} = \"{kind}\"` or another name", path.display())]
    ColumnCollision { path: PathBuf, column: String, kind: &'static str },

    /// A column to be added that the table already has.
    #[error("{} already has a column \"{column}\": choose another name for the new one", path.display())]
    ColumnThere { path: PathBuf, column: String },

    /// An input with two columns of one name.
    #[error("{} has two columns named \"{column}\": rename one", path.display())]
    DuplicateColumn { path: PathBuf, column: String },

    /// Input files whose columns differ.
    #[error("{} and {} have different columns ({detail}): score them in separate runs", first.display(), other.display())]
    SchemaMismatch { first: PathBuf, other: PathBuf, detail: String },

    /// The output folder holds something already.
    #[error("output {} already holds {found}: choose another folder (for a run: --output), or remove it", path.display())]
    OutputExists { path: PathBuf, found: String },

    /// The output folder's parts were made in another way than is asked for now.
    #[error("output {} was made differently: {difference}; --redo-changed does what changed again, --incremental follows an input whose files come and change, --output chooses another folder", path.display())]
    OutputDiffers { path: PathBuf, difference: String },

    /// The output folder's record of itself is unusable.
    #[error("{} {problem}", path.display())]
    Manifest { path: PathBuf, problem: String },

    /// Another process writes to the output folder.
    #[error("output {} is being written by {holder}: wait for it, or choose another with --output", path.display())]
    Locked { path: PathBuf, holder: String },

    /// `verify` found parts that are not as they were published.
    #[error("{} is not whole:\n  {}", path.display(), problems.join("\n  "))]
    Verify { path: PathBuf, problems: Vec<String> },

    /// `finalize` found that there is work left.
    #[error("output {} is not complete: {missing} of {parts} parts are missing or not whole ({first}); make them with `clipmill run`, alone or with --parts", path.display())]
    PartsMissing { path: PathBuf, missing: usize, parts: usize, first: String },

    /// A file that is not the Parquet it should be.
    #[error("could not read {} as Parquet", path.display())]
    Parquet {
        path: PathBuf,
        #[source]
        source: Cause,
    },

    /// A tar file that cannot be read to its end, or not as one.
    #[error("could not read {} as tar at byte {at}: {problem}", path.display())]
    Tar { path: PathBuf, at: u64, problem: String },

    /// An Arrow IPC stream that cannot be read, or whose end is missing.
    #[error("could not read {} as an Arrow IPC stream: {problem}", path.display())]
    Stream { path: PathBuf, problem: String },

    /// A file whose footer and pages disagree about the number of rows.
    #[error("{} holds {found} rows where its footer says {expected}: the file is damaged", path.display())]
    RowCount { path: PathBuf, expected: u64, found: u64 },

    /// An input that is not what it was when the job began.
    #[error("{} was changed while it was read: leave it alone, then run again with --redo-changed", path.display())]
    InputChanged { path: PathBuf },

    /// A row whose values are larger than a batch may be.
    #[error("row {row} of {} holds {bytes} bytes, more than the {most} that a row may have: the file is damaged, or meant to exhaust the memory", path.display())]
    RowSize { path: PathBuf, row: u64, bytes: u64, most: u64 },

    /// A row with more images or captions than a row may have.
    #[error("a row has {n} images or captions in a list, more than {most}: split it into several")]
    LongList { n: usize, most: usize },

    /// The file system refused something.
    #[error("could not {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    /// A JSON file of the model folder that does not say what it should.
    #[error("{}: {problem}", path.display())]
    ModelFile { path: PathBuf, problem: String },

    /// Weights in a format that can run code when read.
    #[error("{} can run code when it is read, so clipmill does not read it: convert it once to model.safetensors (in Python: `CLIPModel.from_pretrained(dir).save_pretrained(dir)`)", path.display())]
    PickledWeights { path: PathBuf },

    /// Weights that do not fit the architecture that config.json describes.
    #[error("weights {}: tensor \"{tensor}\" {problem}", path.display())]
    Tensor { path: PathBuf, tensor: String, problem: String },

    /// A device that was asked for and cannot be used.
    #[error("device \"{device}\" cannot be used: {problem}")]
    Device { device: String, problem: String },

    /// LibTorch refused an operation.
    #[error("LibTorch failed to {action}")]
    Torch {
        action: &'static str,
        #[source]
        source: tch::TchError,
    },

    /// Arrow refused an operation.
    #[error("could not {action}")]
    Arrow {
        action: &'static str,
        #[source]
        source: arrow::error::ArrowError,
    },

    /// A library could not read or summarise a table, or write what is made of it.
    #[error("could not {action} {}", path.display())]
    Table {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Cause,
    },

    /// Decoding one image takes longer than allowed, and cannot be stopped but with the process.
    #[error("decoding the image of row {row} of {} takes more than {seconds} s (run.decode_timeout): the same command goes on, and first tries that image in a process of its own", path.display())]
    DecoderHangs { path: PathBuf, row: u64, seconds: u32 },

    /// The same while rows are given on as a stream, which nobody can go on with.
    #[error(
        "decoding an image takes more than {seconds} s (run.decode_timeout): a run into a folder finds out which, gets past it, and goes on"
    )]
    StreamHangs { seconds: u32 },

    /// A host, or all of them, have stopped answering.
    #[error(
        "{host} has given no image and no refusal {in_a_row} times in a row, the last: {last}: complete parts are kept, and the same command goes on when it is well again; image.url.outage = 0 writes such rows down as image_unreachable instead"
    )]
    Outage { host: String, in_a_row: usize, last: String },

    /// The hub has no such model, does not show it, or may not be asked.
    #[error("the hub's model {repo} {problem}")]
    Hub { repo: String, problem: String },

    /// The hub gives no answer.
    #[error(
        "{host} gives no answer: {why}: what was fetched of {repo} is kept, and the same command goes on when it is well again; HF_HUB_OFFLINE=1 takes what is in the cache"
    )]
    HubAway { repo: String, host: String, why: String },

    /// Bytes of the hub's that are not what it says they are.
    #[error(
        "{file} of the hub's model {repo}, as {host} gives it, {problem}: something between here and there changes it; try again, or another HF_ENDPOINT"
    )]
    HubFile { repo: String, file: String, host: String, problem: String },

    /// A model on the hub whose weights are all in a format that can run code when read.
    #[error(
        "the hub's model {repo} has its weights in {file} alone, which can run code when it is read, so clipmill does not read it: take a revision with safetensors (many models have one as a pull request: `revision = \"refs/pr/N\"`, with the number from its page), or convert it once to a folder (in Python: `CLIPModel.from_pretrained(\"{repo}\").save_pretrained(dir)`)"
    )]
    PickledHub { repo: String, file: String },

    /// What requests are made with cannot be made ready.
    #[error(
        "could not get ready for the network: install the system's certificates (ca-certificates), or name a file of them in SSL_CERT_FILE"
    )]
    Network {
        #[source]
        source: Cause,
    },

    /// `on_row_error = "fail"` met a bad row.
    #[error("row {row} of {}: {status}: {message} (on_row_error is \"fail\"; \"keep\" writes it as data)", path.display())]
    Row { path: PathBuf, row: u64, status: RowStatus, message: String },

    /// The run finished and more rows failed than `--max-failed` allows.
    #[error("{failed} of {rows} rows failed, more than --max-failed {allowed} allows; the output is complete in {}", output.display())]
    TooManyFailed { failed: u64, rows: u64, allowed: String, output: PathBuf },

    /// The run is done, and its scores are not as the pipeline says they have to be.
    #[error("{problem} (the output in {} is complete)", output.display())]
    Gate { problem: String, output: PathBuf },

    /// A stage thread ended without saying why: a defect in clipmill.
    #[error("the {stage} stage panicked: this is a defect in clipmill, please report it")]
    StagePanicked { stage: &'static str },

    /// The system refused a thread.
    #[error("could not start the {stage} stage's threads")]
    Thread {
        stage: &'static str,
        #[source]
        source: io::Error,
    },

    /// Ctrl-C, or a termination signal.
    #[error("interrupted: {complete} of {parts} parts are complete in {}; the same command goes on", output.display())]
    Interrupted { signal: i32, complete: usize, parts: usize, output: PathBuf },

    /// The same while rows were given on as a stream.
    #[error(
        "interrupted: {rows} rows were given on, and no end marker; the same command begins again"
    )]
    StreamInterrupted { signal: i32, rows: u64 },
}

impl Error {
    /// The process's exit status, which is API: 1 failed, 2 bad usage or pipeline file,
    /// 3 finished but more rows failed than allowed, 4 finished but scores are not as asked for, 73 another process writes the output, 75 the
    /// system refused for now (disk full, I/O error, a host that is away: the same command later
    /// goes on), 130 or 143
    /// interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Spec { .. }
            | Error::Set { .. }
            | Error::Setting { .. }
            | Error::NotFound { .. }
            | Error::NoInput { .. }
            | Error::NoColumn { .. }
            | Error::ColumnType { .. }
            | Error::ColumnCollision { .. }
            | Error::DuplicateColumn { .. }
            | Error::ColumnThere { .. }
            | Error::SchemaMismatch { .. }
            | Error::OutputExists { .. }
            | Error::OutputDiffers { .. }
            | Error::Hub { .. } => 2,
            Error::TooManyFailed { .. } => 3,
            Error::Gate { .. } => 4,
            Error::Interrupted { signal, .. } | Error::StreamInterrupted { signal, .. } => {
                128 + *signal as u8
            }
            Error::Locked { .. } => 73,
            Error::DecoderHangs { .. } | Error::Outage { .. } | Error::HubAway { .. } => 75,
            Error::Io { source, .. } | Error::Thread { source, .. } if passes(source) => 75,
            Error::Parquet { source, .. } | Error::Table { source, .. } if cause_passes(source) => {
                75
            }
            Error::Parquet { .. }
            | Error::Manifest { .. }
            | Error::Verify { .. }
            | Error::PartsMissing { .. }
            | Error::RowCount { .. }
            | Error::Tar { .. }
            | Error::Stream { .. }
            | Error::StreamHangs { .. }
            | Error::LongList { .. }
            | Error::InputChanged { .. }
            | Error::RowSize { .. }
            | Error::Io { .. }
            | Error::ModelFile { .. }
            | Error::PickledWeights { .. }
            | Error::PickledHub { .. }
            | Error::HubFile { .. }
            | Error::Tensor { .. }
            | Error::Device { .. }
            | Error::Torch { .. }
            | Error::Arrow { .. }
            | Error::Table { .. }
            | Error::Network { .. }
            | Error::Row { .. }
            | Error::StagePanicked { .. }
            | Error::Thread { .. } => 1,
        }
    }

    /// An I/O error with what was being done and to which path.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }

    /// A LibTorch error with what was being done.
    pub fn torch(action: &'static str) -> impl FnOnce(tch::TchError) -> Error {
        move |source| Error::Torch { action, source }
    }
}

/// An error with its causes, in one line.
pub fn in_words<E: std::error::Error + ?Sized>(error: &E) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        message += &format!(": {source}");
        cause = source.source();
    }
    message
}

/// A text for a terminal: control characters from strangers' files are shown, not obeyed.
pub fn disarmed(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Ends the process as it is. No destructor runs under a thread that is still at work, and LibTorch
/// does not take its tables of operators apart, which takes it as long as a third of its start.
pub fn leave(code: i32) -> ! {
    signal_hook::low_level::exit(code)
}

/// Whether the cause lies with the machine and may be gone later: the disk is full or fails, a
/// limit of the process or the system is reached, a network file system is away.
pub fn passes(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    // EIO, ENOMEM, ENFILE, EMFILE, EAGAIN, ENOTCONN, ETIMEDOUT, EHOSTDOWN; not all have a stable
    // kind.
    matches!(
        error.kind(),
        StorageFull
            | QuotaExceeded
            | ReadOnlyFilesystem
            | Interrupted
            | StaleNetworkFileHandle
            | HostUnreachable
    ) || matches!(error.raw_os_error(), Some(5 | 11 | 12 | 23 | 24 | 107 | 110 | 112))
}

/// The same of an error that has an I/O error somewhere among its causes.
fn cause_passes(error: &Cause) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(passes) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The `status` column's words. They are stable: people filter on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowStatus {
    /// Everything that the pipeline asks for was computed.
    Ok,
    /// The image column is null or an empty string.
    ImagePathMissing,
    /// The text is no URL.
    ImageUrlInvalid,
    /// The path or URL names nothing.
    ImageMissing,
    /// The path leaves the root, or names something that is not a regular file; the URL's scheme,
    /// host or address is not allowed.
    ImageRefused,
    /// The server answered with something else than an image, and will again.
    ImageHttpError,
    /// The server gave no answer, or one that may pass, in all tries.
    ImageUnreachable,
    /// The file is there and could not be read.
    ImageUnreadable,
    /// The file, its sides or its pixel count are over the limits.
    ImageTooLarge,
    /// The file ends before the image does.
    ImageTruncated,
    /// The bytes are no image that clipmill reads, or a damaged one.
    ImageUndecodable,
    /// A decoder panicked on the bytes: a defect there, contained here.
    DecoderPanic,
    /// A decoder killed its process on the bytes, or did not end.
    DecoderCrash,
    /// The table has no embedding of the image, where images are not encoded anew.
    ImageEmbeddingMissing,
    /// The caption is null.
    CaptionMissing,
    /// The caption is not UTF-8.
    CaptionInvalid,
    /// The caption has no token: empty, or white space alone.
    CaptionEmpty,
    /// The model gave a NaN or an infinity for this row.
    NonFinite,
}

impl RowStatus {
    /// Every status, in the order in which reports list them.
    pub const ALL: [RowStatus; 18] = [
        RowStatus::Ok,
        RowStatus::ImagePathMissing,
        RowStatus::ImageUrlInvalid,
        RowStatus::ImageMissing,
        RowStatus::ImageRefused,
        RowStatus::ImageHttpError,
        RowStatus::ImageUnreachable,
        RowStatus::ImageUnreadable,
        RowStatus::ImageTooLarge,
        RowStatus::ImageTruncated,
        RowStatus::ImageUndecodable,
        RowStatus::DecoderPanic,
        RowStatus::DecoderCrash,
        RowStatus::ImageEmbeddingMissing,
        RowStatus::CaptionMissing,
        RowStatus::CaptionInvalid,
        RowStatus::CaptionEmpty,
        RowStatus::NonFinite,
    ];

    /// Whether another run may find the row well, with nothing changed here.
    pub const fn may_pass(self) -> bool {
        matches!(self, RowStatus::ImageUnreachable)
    }

    /// The word in the `status` column.
    pub const fn as_str(self) -> &'static str {
        match self {
            RowStatus::Ok => "ok",
            RowStatus::ImagePathMissing => "image_path_missing",
            RowStatus::ImageUrlInvalid => "image_url_invalid",
            RowStatus::ImageMissing => "image_missing",
            RowStatus::ImageRefused => "image_refused",
            RowStatus::ImageHttpError => "image_http_error",
            RowStatus::ImageUnreachable => "image_unreachable",
            RowStatus::ImageUnreadable => "image_unreadable",
            RowStatus::ImageTooLarge => "image_too_large",
            RowStatus::ImageTruncated => "image_truncated",
            RowStatus::ImageUndecodable => "image_undecodable",
            RowStatus::DecoderPanic => "decoder_panic",
            RowStatus::DecoderCrash => "decoder_crash",
            RowStatus::ImageEmbeddingMissing => "image_embedding_missing",
            RowStatus::CaptionMissing => "caption_missing",
            RowStatus::CaptionInvalid => "caption_invalid",
            RowStatus::CaptionEmpty => "caption_empty",
            RowStatus::NonFinite => "non_finite",
        }
    }
}

impl fmt::Display for RowStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why one row has no image embedding, no text embedding or no score.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RowError {
    /// Becomes the `status` column.
    pub status: RowStatus,
    /// Becomes the `error_message` column.
    pub message: String,
}

impl RowError {
    pub fn new(status: RowStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}
