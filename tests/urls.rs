//! Images by URL: what servers do to whom asks them, and what a run makes of it.
//!
//! All servers are on loopback ports. They are not public, so each is opened by name; a port that
//! is not opened counts who comes.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::common::s3::S3;
use crate::common::server::Server;
use crate::common::{Ran, clipmill, sample, scratch};

/// A job over these URLs, in a folder: `job.toml`, `urls.parquet`, `out`.
fn write_job(dir: &Path, urls: &[Option<String>], settings: &str) {
    let column: StringArray = urls.iter().map(Option::as_deref).collect();
    let batch = RecordBatch::try_from_iter([("url", Arc::new(column) as Arc<dyn Array>)]);
    let batch = batch.expect("a batch");
    let file = fs::File::create(dir.join("urls.parquet")).expect("created");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
    let job = format!(
        "version = 1\n\
         [source.parquet]\npath = \"{dir}/urls.parquet\"\nimage = \"url\"\n\
         [image.url]\n{settings}\n\
         [preprocess]\nmax_bytes = 200000\n\
         [model.clip]\ndir = \"sample_data/model\"\n\
         [columns]\nimage_width = \"image_width\"\n\
         [sink.parquet]\npath = \"{dir}/out\"\n",
        dir = dir.display()
    );
    fs::write(dir.join("job.toml"), job).expect("written");
}

fn run(dir: &Path, more: &[&str]) -> Ran {
    let job = dir.join("job.toml").display().to_string();
    clipmill([&["run", &job, "--threads", "2"], more].concat())
}

/// URL, `status` and `error_message` of every row, part after part.
fn rows(dir: &Path) -> Vec<(Option<String>, String, Option<String>)> {
    let mut parts: Vec<_> = fs::read_dir(dir.join("out"))
        .expect("an output")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "parquet"))
        .collect();
    parts.sort();
    let mut rows = Vec::new();
    for part in parts {
        let file = fs::File::open(part).expect("a part");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build();
        for batch in reader.expect("a reader") {
            let batch = batch.expect("a batch");
            let text = |column: &str, row: usize| {
                let column = batch.column_by_name(column).expect(column).as_string::<i32>();
                column.is_valid(row).then(|| column.value(row).to_owned())
            };
            rows.extend((0..batch.num_rows()).map(|row| {
                let status = text("status", row).expect("every row has one");
                (text("url", row), status, text("error_message", row))
            }));
        }
    }
    rows
}

/// What each kind of URL comes to, `{bad}` and `{forbidden}` being servers; `#` stands for what
/// makes it one of its own.
const KINDS: [(&str, &str); 44] = [
    ("http://{bad}/good/#", "ok"),
    ("http://{bad}/chunked/#", "ok"),
    ("http://{bad}/to-the-end/#", "ok"),
    ("http://{bad}/three-hops/#", "ok"),
    ("http://{bad}/busy-once/#", "ok"),
    ("http://{bad}/broken-once/#", "ok"),
    ("http://{bad}/good/same", "ok"),
    ("http://{bad}/stall/#", "image_unreachable"),
    ("http://{bad}/stall-midway/#", "image_unreachable"),
    ("http://{bad}/reset/#", "image_unreachable"),
    ("http://{bad}/longer-said/#", "image_unreachable"),
    ("http://{bad}/chunks-cut/#", "image_unreachable"),
    ("http://{bad}/broken/#", "image_unreachable"),
    ("http://{bad}/garbage/#", "image_unreachable"),
    ("http://{bad}/shorter-said/#", "image_truncated"),
    ("http://{bad}/huge/#", "image_too_large"),
    ("http://{bad}/huge-said/#", "image_too_large"),
    ("http://{bad}/404/#", "image_missing"),
    ("http://{bad}/410/#", "image_missing"),
    ("http://{bad}/403/#", "image_http_error"),
    ("http://{bad}/204/#", "image_http_error"),
    ("http://{bad}/loop/#", "image_http_error"),
    ("http://{bad}/nowhere/#", "image_http_error"),
    ("https://{bad}/good/#", "image_http_error"),
    ("http://{bad}/text/#", "image_undecodable"),
    ("http://{bad}/packed/#", "image_undecodable"),
    ("http://{bad}/empty/#", "image_undecodable"),
    ("http://{bad}/away/#", "image_refused"),
    ("http://{bad}/away-by-name/#", "image_refused"),
    ("http://{bad}/away-to-file/#", "image_refused"),
    ("http://{forbidden}/#", "image_refused"),
    ("http://localhost:{port}/#", "image_refused"),
    ("http://2130706433:{port}/#", "image_refused"),
    ("http://0x7f.1:{port}/#", "image_refused"),
    ("http://[::ffff:127.0.0.1]:{port}/#", "image_refused"),
    ("http://169.254.169.254/latest/meta-data/#", "image_refused"),
    ("http://{bad}@{forbidden}/#", "image_refused"),
    ("http://user:secret@{bad}/good/#", "image_refused"),
    ("ftp://{bad}/good/#", "image_refused"),
    ("file:///etc/passwd?#", "image_refused"),
    ("s3://bucket/#", "image_refused"),
    ("http://?#", "image_url_invalid"),
    ("no URL at all #", "image_url_invalid"),
    ("", "image_path_missing"),
];

#[test]
fn ten_thousand_rows_of_a_bad_server_are_all_accounted_for() {
    let dir = scratch();
    let forbidden = Server::start(0);
    let bad = Server::start(forbidden.port);
    let (at, port) = (format!("127.0.0.1:{}", bad.port), forbidden.port.to_string());
    let mut urls = Vec::new();
    // As many of each kind, but few of those that take the server's patience.
    for row in 0..10_000 {
        let (kind, _) = KINDS[row % KINDS.len()];
        let url = kind.replace("{forbidden}", &format!("127.0.0.1:{port}"));
        let url = url.replace("{bad}", &at).replace("{port}", &port).replace('#', &row.to_string());
        urls.push((!url.is_empty()).then_some(url));
    }
    let settings = format!(
        "hosts = [\"*\"]\nschemes = [\"http\", \"https\"]\nprivate = [\"{at}\"]\n\
         timeout = 2\nretries = 1\nparallel = 256"
    );
    write_job(dir.path(), &urls, &settings);
    let ran = run(dir.path(), &["--batch-size", "256"]).ok();
    println!("{}", ran.stdout);

    let rows = rows(dir.path());
    assert_eq!(rows.len(), urls.len());
    for (index, (url, status, message)) in rows.iter().enumerate() {
        assert_eq!(*url, urls[index], "row {index} is another");
        let wanted = KINDS[index % KINDS.len()].1;
        assert_eq!(status, wanted, "row {index}: {url:?}: {message:?}");
        assert_eq!(message.is_none(), wanted == "ok", "row {index}: {message:?}");
        let message = message.as_deref().unwrap_or_default();
        assert!(!message.contains("secret"), "{message}");
    }
    assert_eq!(forbidden.connections.load(Ordering::SeqCst), 0, "nobody may go there");
    // Two tries a row at the most, and three redirects.
    assert!(bad.requests() <= 2 * 4 * urls.len(), "{} requests", bad.requests());
    assert!(bad.busiest() <= 256 + 64, "{} requests at once", bad.busiest());
    assert_eq!(bad.hits("404/17"), 1, "what is permanent is not tried again");
    println!("{} requests, {} at once", bad.requests(), bad.busiest());
}

#[test]
fn requests_are_made_at_once_and_a_url_that_several_rows_name_is_asked_for_once() {
    let dir = scratch();
    let server = Server::start(0);
    let mut urls: Vec<_> = (0..200).map(|row| Some(server.url(&format!("slow/{row}")))).collect();
    urls.extend((0..30).map(|_| Some(server.url("slow/same"))));
    let private = format!("127.0.0.1:{}", server.port);
    let settings = format!(
        "hosts = [\"127.0.0.1\"]\nschemes = [\"http\"]\nprivate = [\"{private}\"]\nparallel = 50"
    );
    write_job(dir.path(), &urls, &settings);
    run(dir.path(), &["--batch-size", "100"]).ok();
    assert!(rows(dir.path()).iter().all(|row| row.1 == "ok"));
    assert_eq!(server.requests(), 201);
    // More than there are threads, and no more than was said.
    assert!((20..=50).contains(&server.busiest()), "{} at once", server.busiest());

    // How fast is no matter of what the output means.
    let faster = ["--set", "image.url.parallel=2", "--set", "image.url.retries=0"];
    let ran = run(dir.path(), &faster).ok();
    assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);
    let ran = run(dir.path(), &["--set", "image.url.hosts=[\"*\"]"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
}

#[test]
fn an_outage_ends_the_run_and_the_same_command_goes_on_after_it() {
    let dir = scratch();
    // Bound and let go: nobody listens there now.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let url = |row| Some(format!("http://127.0.0.1:{port}/good/{row}"));
    let urls: Vec<_> = (0..100).map(url).collect();
    let settings =
        "hosts = [\"127.0.0.1\"]\nschemes = [\"http\"]\nprivate = [\"127.0.0.1\"]\nretries = 1";
    write_job(dir.path(), &urls, settings);
    let ran = run(dir.path(), &[]);
    assert_eq!(ran.code, 75, "{}", ran.stderr);
    for says in [&format!("127.0.0.1:{port}"), "20 times", "image.url.outage"] {
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
    assert!(!dir.path().join("out/part-00000.parquet").exists());

    let _server = Server::on(TcpListener::bind(("127.0.0.1", port)).expect("still free"), 0);
    run(dir.path(), &[]).ok();
    let rows = rows(dir.path());
    assert!(rows.len() == 100 && rows.iter().all(|row| row.1 == "ok"));
}

#[test]
fn settings_that_make_no_sense_are_bad_usage() {
    let dir = scratch();
    for (settings, says) in [
        ("", "hosts"),
        ("hosts = []", "image.url.hosts"),
        ("hosts = [\"https://example.org\"]", "image.url.hosts"),
        ("hosts = [\"*\"]\nprivate = [\"localhost:80\"]", "image.url.private"),
        ("hosts = [\"*\"]\nschemes = [\"ftp\"]", "ftp"),
        ("hosts = [\"*\"]\nschemes = []", "image.url.schemes"),
        ("hosts = [\"*\"]\ntimeout = 0", "timeout"),
        ("hosts = [\"*\"]\nproxy = \"x\"", "proxy"),
    ] {
        write_job(dir.path(), &[Some("https://example.org/x".into())], settings);
        let ran = run(dir.path(), &[]);
        assert_eq!(ran.code, 2, "{settings}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{settings}: {}", ran.stderr);
    }
}

#[test]
fn objects_of_an_s3_are_read_with_the_environments_endpoint_and_credentials() {
    let Some(s3) = S3::start() else { return };
    let port = s3.port;
    for name in ["003-1f31c.png", "001-1f4cf.jpg"] {
        s3.put(&format!("images/a folder/{name}"), &sample().join("images").join(name));
    }
    let large = scratch();
    fs::write(large.path().join("large"), vec![0; 300_000]).expect("written");
    s3.put("images/large", &large.path().join("large"));
    let dir = scratch();
    let cases = [
        ("s3://images/a folder/003-1f31c.png", "ok"),
        ("s3://images/a folder/001-1f4cf.jpg", "ok"),
        ("s3://images/a folder/none.png", "image_missing"),
        ("s3://images/large", "image_too_large"),
        ("s3://images/../other/key", "image_url_invalid"),
        ("s3://images", "image_url_invalid"),
        ("s3://other/key", "image_refused"),
        ("gs://images/key", "image_refused"),
    ];
    let urls: Vec<_> = cases.iter().map(|(url, _)| Some((*url).to_owned())).collect();
    let job = dir.path().join("job.toml").display().to_string();
    let run = |settings: &str| {
        write_job(dir.path(), &urls, settings);
        s3.run(dir.path(), ["run", &job]).ok();
        rows(dir.path())
    };
    let found = run("hosts = [\"images\"]\nschemes = [\"s3\"]\nretries = 0");
    assert!(found[0].1 == "image_refused", "an endpoint is a private address too: {:?}", found[0]);
    fs::remove_dir_all(dir.path().join("out")).expect("there");
    let private = format!("private = [\"127.0.0.1:{port}\"]");
    let found = run(&format!("hosts = [\"images\"]\nschemes = [\"s3\"]\n{private}"));
    for ((url, wanted), (_, status, message)) in cases.iter().zip(&found) {
        assert_eq!(status, wanted, "{url}: {message:?}");
    }
}

#[test]
fn parts_with_unreachable_rows_are_done_again_where_that_is_asked_for() {
    let dir = scratch();
    let server = Server::start(0);
    // Three parts; in the second are two rows whose server needs more tries than a run makes.
    let kind = |row| if row == 12 || row == 17 { "later" } else { "good" };
    let urls: Vec<_> =
        (0..30).map(|row| Some(server.url(&format!("{}/{row}", kind(row))))).collect();
    let private = format!("127.0.0.1:{}", server.port);
    let settings = format!(
        "hosts = [\"127.0.0.1\"]\nschemes = [\"http\"]\nprivate = [\"{private}\"]\nretries = 1"
    );
    write_job(dir.path(), &urls, &settings);
    let parts = ["--set", "sink.parquet.rows_per_part=10"];
    run(dir.path(), &parts).ok();
    let unreachable = || rows(dir.path()).iter().filter(|row| row.1 == "image_unreachable").count();
    assert_eq!(unreachable(), 2);
    let ran = run(dir.path(), &parts).ok();
    assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);

    run(dir.path(), &[&parts[..], &["--retry-failed"]].concat()).ok();
    assert_eq!((rows(dir.path()).len(), unreachable()), (30, 0));
    let hits: Vec<_> = (0..30).map(|row| server.hits(&format!("good/{row}"))).collect();
    assert!(hits[..10].iter().chain(&hits[20..]).all(|n| *n == 1), "{hits:?}");
    let ran = run(dir.path(), &[&parts[..], &["--retry-failed"]].concat()).ok();
    assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);
}
