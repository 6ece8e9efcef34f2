//! `--lineage`: OpenLineage's events of a run (<https://openlineage.io/spec/2-0-2/OpenLineage.json>),
//! for a file, a line an event, or a server.
//!
//! START when work begins, then COMPLETE, FAIL or ABORT (interrupted), with one run's id. Datasets
//! have the names that <https://openlineage.io/docs/spec/naming> gives files and objects. How events
//! reach a server is `post`'s.

use std::collections::hash_map::RandomState;
use std::env;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::datatypes::{DataType, Fields};
use serde_json::{Map, Value, json};
use url::Url;

use super::post::Post;
use super::{Data, Known, append};
use crate::clock::rfc3339;
use crate::error::Error;
use crate::log::Event;
use crate::store::is_url;

const SCHEMA: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";

/// Where OpenLineage's servers take events, beneath their URL.
const ENDPOINT: &str = "/api/v1/lineage";

/// Who is told of one run.
pub struct Lineage {
    to: Target,
    ids: Ids,
    has_started: AtomicBool,
}

enum Target {
    File(PathBuf),
    Server(Post),
}

/// Which run of which job it is.
struct Ids {
    run: String,
    namespace: String,
    job: String,
    /// Of the scheduler's task that started the run: namespace, job and run.
    parent: Option<[String; 3]>,
}

/// What has become of a run: `eventType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Complete,
    Fail,
    Abort,
}

impl Lineage {
    /// A file or a server for the events of a run of the job.
    ///
    /// # Errors
    /// `Setting` for what is no URL, a file that cannot be written to, an environment variable that
    /// does not say what it should; `Thread`.
    pub fn open(to: &str, job: &str) -> Result<Self, Error> {
        let ids = Ids {
            run: uuid7(SystemTime::now(), [random(), random()]),
            namespace: variable("OPENLINEAGE_NAMESPACE").unwrap_or_else(|| "default".to_owned()),
            job: job.to_owned(),
            parent: variable("OPENLINEAGE_PARENT_ID")
                .map(|parent| parse_parent(&parent))
                .transpose()?,
        };
        let to = if to.contains("://") {
            let key = variable("OPENLINEAGE_API_KEY");
            Target::Server(Post::to(parse_url(to)?, key.as_deref())?)
        } else {
            let path = PathBuf::from(to);
            append(&path, "").map_err(|source| wrong(format!("could not write {to}: {source}")))?;
            Target::File(path)
        };
        Ok(Self { to, ids, has_started: AtomicBool::new(false) })
    }

    /// Tells that work begins.
    pub fn start(&self, known: &Known) {
        self.has_started.store(true, Ordering::Relaxed);
        self.tell(&event(&self.ids, State::Start, known));
    }

    /// Tells how the run has ended, and waits a while until that is known.
    pub fn end(&self, known: &Known) {
        if !self.has_started.load(Ordering::Relaxed) {
            self.start(known);
        }
        let state = match known.ended.as_ref().map(|ended| ended.exit_code) {
            None | Some(0) => State::Complete,
            Some(130 | 143) => State::Abort,
            Some(_) => State::Fail,
        };
        self.tell(&event(&self.ids, state, known));
        if let Target::Server(post) = &self.to {
            post.finish();
        }
    }

    fn tell(&self, event: &Value) {
        match &self.to {
            Target::Server(post) => post.send(event.to_string()),
            Target::File(path) => {
                if let Err(error) = append(path, &format!("{event}\n")) {
                    let message =
                        format!("could not write the lineage {}: {error}", path.display());
                    Event::warning(message).with_path("path", path).say();
                }
            }
        }
    }
}

fn wrong(problem: String) -> Error {
    Error::Setting { key: "--lineage".into(), problem }
}

/// An environment variable that says something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where events are posted: as given, or the usual place where nothing but a host is given.
fn parse_url(text: &str) -> Result<Url, Error> {
    let url = Url::parse(text).map_err(|error| wrong(format!("{text} is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        let problem = format!("{text} is neither http:// nor https:// nor a file's path");
        return Err(wrong(problem));
    }
    match url.path() {
        "" | "/" => Ok(url.join(ENDPOINT).expect("a path fits behind any host")),
        _ => Ok(url),
    }
}

/// `NAMESPACE/JOB/RUN` of the parent, as OpenLineage's integrations hand it down.
fn parse_parent(text: &str) -> Result<[String; 3], Error> {
    let mut pieces = text.rsplitn(3, '/').map(str::to_owned);
    let (run, job, namespace) = (pieces.next(), pieces.next(), pieces.next());
    let is_uuid = |run: &String| {
        let lengths = run.split('-').map(str::len);
        lengths.eq([8, 4, 4, 4, 12]) && run.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
    };
    match (namespace, job, run.filter(is_uuid)) {
        (Some(namespace), Some(job), Some(run)) => Ok([namespace, job, run]),
        _ => Err(Error::Setting {
            key: "OPENLINEAGE_PARENT_ID".into(),
            problem: format!("{text:?} is not NAMESPACE/JOB/RUN, with a UUID for the run"),
        }),
    }
}

/// The event of a run's state.
fn event(ids: &Ids, state: State, known: &Known) -> Value {
    let ended = known.ended.as_ref().filter(|_| state != State::Start);
    let mut run = json!({
        "processing_engine": facet("1-1-1/ProcessingEngineRunFacet", json!({
            "name": "clipmill", "version": env!("CARGO_PKG_VERSION"),
        })),
    });
    if let Some(error) = ended.and_then(|ended| ended.error.as_ref()) {
        let message = json!({ "message": error, "programmingLanguage": "RUST" });
        run["errorMessage"] = facet("1-0-1/ErrorMessageRunFacet", message);
    }
    if let Some([namespace, name, id]) = &ids.parent {
        let parent = json!({
            "run": { "runId": id }, "job": { "namespace": namespace, "name": name },
        });
        run["parent"] = facet("1-2-0/ParentRunFacet", parent);
    }
    let kind = json!({ "processingType": "BATCH", "integration": "CLIPMILL", "jobType": "JOB" });
    let plan = known.plan.as_ref();
    let inputs: Vec<_> = plan.iter().flat_map(|plan| &plan.inputs).map(dataset).collect();
    json!({
        "eventTime": rfc3339(ended.map_or(known.started, |ended| ended.at)),
        "eventType": match state {
            State::Start => "START",
            State::Complete => "COMPLETE",
            State::Fail => "FAIL",
            State::Abort => "ABORT",
        },
        "producer": producer(),
        "schemaURL": SCHEMA,
        "run": { "runId": ids.run, "facets": run },
        "job": {
            "namespace": ids.namespace,
            "name": ids.job,
            "facets": { "jobType": facet("2-0-4/JobTypeJobFacet", kind) },
        },
        "inputs": inputs,
        "outputs": outputs(state, known),
    })
}

/// The tables that are written; of the run's own, how large it is once it is there.
fn outputs(state: State, known: &Known) -> Vec<Value> {
    let plan = known.plan.as_ref();
    let mut outputs: Vec<_> = plan.iter().flat_map(|plan| &plan.outputs).map(dataset).collect();
    let made = known.made.as_ref().filter(|_| state != State::Start);
    if let (Some(own), Some(made)) = (outputs.first_mut(), made) {
        let size = json!({
            "rowCount": made.size.rows, "size": made.size.bytes, "fileCount": made.size.files,
        });
        let size = facet("1-0-2/OutputStatisticsOutputDatasetFacet", size);
        own["outputFacets"] = json!({ "outputStatistics": size });
    }
    outputs
}

fn producer() -> String {
    format!("urn:clipmill:{}", env!("CARGO_PKG_VERSION"))
}

/// A facet of the spec, `VERSION/NAME`.
fn facet(schema: &str, what: Value) -> Value {
    let mut facet = Map::new();
    facet.insert("_producer".to_owned(), producer().into());
    let schema = format!("https://openlineage.io/spec/facets/{schema}.json");
    facet.insert("_schemaURL".to_owned(), schema.into());
    if let Value::Object(what) = what {
        facet.extend(what);
    }
    Value::Object(facet)
}

fn dataset(data: &Data) -> Value {
    let (namespace, name) = named(&data.path);
    let mut dataset = json!({ "namespace": namespace, "name": name });
    if let Some(schema) = &data.schema {
        let schema = json!({ "fields": fields(schema.fields()) });
        dataset["facets"] = json!({ "schema": facet("1-2-0/SchemaDatasetFacet", schema) });
    }
    dataset
}

/// Columns with their Arrow types; those of a struct beneath it.
fn fields(of: &Fields) -> Vec<Value> {
    let field = |field: &arrow::datatypes::FieldRef| match field.data_type() {
        DataType::Struct(inner) => {
            json!({ "name": field.name(), "type": "Struct", "fields": fields(inner) })
        }
        other => json!({ "name": field.name(), "type": other.to_string() }),
    };
    of.iter().map(field).collect()
}

/// A table's namespace and name: of a file, `file` and its absolute path; of an object, its bucket and
/// its key.
fn named(path: &Path) -> (String, String) {
    let text = path.to_string_lossy();
    if let (true, Some((scheme, rest))) = (is_url(path), text.split_once("://")) {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let account = variable("AZURE_STORAGE_ACCOUNT_NAME").filter(|_| scheme == "az");
        let namespace = match account {
            Some(account) => format!("abfss://{bucket}@{account}.dfs.core.windows.net"),
            None => format!("{scheme}://{bucket}"),
        };
        return (namespace, key.trim_end_matches('/').to_owned());
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // However it was typed, with a slash at its end or without.
    let absolute: PathBuf = absolute.components().collect();
    ("file".to_owned(), absolute.to_string_lossy().into_owned())
}

/// A UUID that sorts by time: version 7 of RFC 9562, section 5.7.
fn uuid7(at: SystemTime, random: [u64; 2]) -> String {
    let ms = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let [a, b] = random;
    // 48 bits of time, 4 of version, 12 random; 2 of variant, 62 random.
    let high = (ms << 16) | 0x7000 | (a & 0x0fff);
    let low = (0b10 << 62) | (b >> 2);
    let hex = format!("{high:016x}{low:016x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// 64 bits that nobody else has: the hash of nothing under keys that the system made at random.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_run_has_the_id_that_the_rfc_gives_for_its_instant() {
        // RFC 9562, appendix A.6.
        let at = UNIX_EPOCH + Duration::from_millis(0x017F_22E2_79B0);
        let random = [0xCC3, 0x18C4_DC0C_0C07_398F << 2];
        assert_eq!(uuid7(at, random), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
        assert_ne!(super::random(), super::random());
    }

    #[test]
    fn tables_have_the_names_of_the_spec() {
        let of = |path: &str| {
            let (namespace, name) = named(Path::new(path));
            [namespace, name]
        };
        assert_eq!(of("/data/out/"), ["file", "/data/out"]);
        assert_eq!(of("s3://bucket/a/b/"), ["s3://bucket", "a/b"]);
        assert_eq!(of("gs://bucket/a.parquet"), ["gs://bucket", "a.parquet"]);
        let here = std::env::current_dir().expect("a folder").display().to_string();
        assert_eq!(of("out/x"), ["file".to_owned(), format!("{here}/out/x")]);
    }

    #[test]
    fn a_host_alone_is_asked_where_openlineage_servers_listen() {
        let url = |text: &str| parse_url(text).map(|url| url.to_string()).unwrap_or_default();
        assert_eq!(url("http://localhost:5000"), "http://localhost:5000/api/v1/lineage");
        assert_eq!(url("https://host/events?a=b"), "https://host/events?a=b");
        assert_eq!(url("ftp://host/"), "");
    }

    #[test]
    fn a_parent_is_taken_apart_from_its_end() {
        let run = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        let parent = parse_parent(&format!("http://airflow/dag.task/{run}")).expect("a parent");
        assert_eq!(parent, ["http://airflow".to_owned(), "dag.task".to_owned(), run.to_owned()]);
        assert!(parse_parent("dag.task").is_err() && parse_parent("a/b/c").is_err());
    }
}
