//! Requests to the hub: what a revision is, what a file is, a file's bytes from some byte on.
//!
//! The token goes to the endpoint's own origin alone, never to where a redirect leads; no redirect
//! leads to another scheme. What may pass is tried again here, but for bodies, which `download`
//! goes on with. What an answer means is in `answer`. Nothing is written.

use std::future::Future;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Client, Method, Response, StatusCode, redirect};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use url::Url;

use super::answer::{Asked, Failure, Missed, header, late, passing};
use super::settings::Settings;
use crate::error::Error;
use crate::spec::{HubSpec, is_commit};

/// Tries of a request, or without a new byte between.
pub const TRIES: usize = 4;

/// The first wait before another try; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait, also of those that a server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// What the hub says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The name of its bytes: for large files (LFS) their SHA-256.
    pub etag: String,
    pub size: Option<u64>,
}

impl About {
    /// The digest that the bytes must have, where the etag is one.
    pub fn sha256(&self) -> Option<&str> {
        let is_digest = self.etag.len() == 64 && self.etag.bytes().all(|b| b.is_ascii_hexdigit());
        is_digest.then_some(self.etag.as_str())
    }
}

/// Who wants a file's bytes.
pub trait Receive {
    /// They begin at this one: at 0 where the server cannot begin elsewhere.
    fn begin(&mut self, start: u64) -> Result<(), Error>;

    /// The next of them.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Error>;
}

/// The hub, to be asked.
#[derive(Debug)]
pub struct Remote {
    endpoint: Url,
    token: Option<HeaderValue>,
    client: Client,
    runtime: Runtime,
    answer_timeout: Duration,
    stall_timeout: Duration,
}

impl Remote {
    /// # Errors
    /// `Network` if there is nothing to check certificates with; `Setting` for a token that cannot
    /// be sent; `Thread`.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let client = Client::builder()
            .user_agent(concat!("clipmill/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(settings.answer_timeout)
            .build()
            .map_err(|source| Error::Network { source: source.into() })?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::Thread { stage: "download", source })?;
        let token = settings.token.as_ref().map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                let problem = "holds characters that no token has: copy it again".to_owned();
                Error::Setting { key: "HF_TOKEN".into(), problem }
            })?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            endpoint: settings.endpoint.clone(),
            token: token.transpose()?,
            client,
            runtime,
            answer_timeout: settings.answer_timeout,
            stall_timeout: settings.stall_timeout,
        })
    }

    /// Where bytes come from, for messages.
    pub fn host(&self) -> &str {
        self.endpoint.host_str().unwrap_or_default()
    }

    /// The commit that a revision is, asked for by a file of it.
    pub fn commit(&self, spec: &HubSpec, probe: &str, tries: usize) -> Result<String, Failure> {
        let head = || self.head(spec, spec.revision(), probe);
        let (headers, missing) = match self.runtime.block_on(retried(tries, head)) {
            Ok(headers) => (headers, None),
            Err(Missed { failure, headers }) => (headers, Some(failure)),
        };
        let commit = header(&headers, "x-repo-commit").unwrap_or_default().to_ascii_lowercase();
        match missing {
            // It says so of a file that is not there too.
            None | Some(Failure::Missing { revision: false }) if is_commit(&commit) => Ok(commit),
            None => Err(self.no_hub("x-repo-commit")),
            Some(failure) => Err(failure),
        }
    }

    /// What a file of a commit is.
    pub fn about(&self, spec: &HubSpec, commit: &str, name: &str) -> Result<About, Failure> {
        let head = || self.head(spec, commit, name);
        let headers =
            self.runtime.block_on(retried(TRIES, head)).map_err(|missed| missed.failure)?;
        let etag = header(&headers, "x-linked-etag").or_else(|| header(&headers, ETAG.as_str()));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        let is_name = |etag: &String| {
            let plain = etag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            plain && (1..=128).contains(&etag.len()) && !etag.starts_with('.')
        };
        let etag = etag.filter(is_name).ok_or_else(|| self.no_hub("etag"))?;
        let size = header(&headers, "x-linked-size").or_else(|| {
            // Of a redirect it is the length of the redirect's own body.
            let length = header(&headers, CONTENT_LENGTH.as_str());
            length.filter(|_| !headers.contains_key(LOCATION))
        });
        Ok(About { etag, size: size.and_then(|size| size.parse().ok()) })
    }

    /// Gives the bytes of a file from `start` on to who wants them, in one try.
    pub fn read(
        &self,
        (spec, commit, name): (&HubSpec, &str, &str),
        start: u64,
        to: &mut impl Receive,
    ) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let url = self.url(spec, commit, name)?;
            let got = self.ask(Method::GET, url, (start > 0).then_some(start)).await;
            let mut response = got.map_err(|missed| missed.failure)?;
            to.begin(match response.status() {
                StatusCode::PARTIAL_CONTENT if starts_at(response.headers(), start) => start,
                StatusCode::OK => 0,
                status => {
                    let why = format!("it answered {status} to a request for bytes {start}-");
                    return Err(Failure::Passing { why, retry_after: None });
                }
            })?;
            loop {
                match timeout(self.stall_timeout, response.chunk()).await {
                    Ok(Ok(Some(bytes))) => to.take(&bytes)?,
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Err(error)) => return Err(passing(&error)),
                    Err(_) => return Err(late(self.stall_timeout)),
                }
            }
        })
    }

    /// Waits before another try.
    pub fn pause(&self, nth: usize, asked: Option<Duration>) {
        std::thread::sleep(wait(nth, asked));
    }

    /// The headers of a file, which a redirect to elsewhere has already.
    async fn head(&self, spec: &HubSpec, revision: &str, name: &str) -> Result<HeaderMap, Missed> {
        let url = self.url(spec, revision, name)?;
        let response = self.ask(Method::HEAD, url, None).await?;
        Ok(response.headers().clone())
    }

    fn url(&self, spec: &HubSpec, revision: &str, name: &str) -> Result<Url, Failure> {
        let mut url = self.endpoint.clone();
        match url.path_segments_mut() {
            Ok(mut path) => {
                // A slash in a revision is no slash of the path.
                path.pop_if_empty().extend(spec.repo().split('/'));
                path.extend(["resolve", revision, name]);
            }
            Err(()) => return Err(self.no_hub("path")),
        }
        Ok(url)
    }

    /// One request, and those that it is redirected to.
    async fn ask(&self, method: Method, url: Url, from: Option<u64>) -> Result<Response, Missed> {
        let mut url = url;
        for _ in 0..=REDIRECTS {
            let is_own = url.origin() == self.endpoint.origin();
            let mut request = self.client.request(method.clone(), url.clone());
            // What was compressed on the way would have another length.
            request = request.header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.token.as_ref().filter(|_| is_own) {
                request = request.header(AUTHORIZATION, token.clone());
            }
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let answered = timeout(self.answer_timeout, request.send()).await;
            let response = answered.map_err(|_| late(self.answer_timeout))?;
            let response = response.map_err(|error| passing(&error))?;
            if !response.status().is_redirection() {
                let asked =
                    Asked { endpoint: &self.endpoint, has_token: self.token.is_some(), is_own };
                return match asked.judge(response.status(), response.headers()) {
                    None => Ok(response),
                    Some(failure) => Err(Missed { failure, headers: response.headers().clone() }),
                };
            }
            let next = self.redirected(&response, &url)?;
            let headers = response.headers();
            let says_all = headers.contains_key("x-linked-etag") || headers.contains_key(ETAG);
            if method == Method::HEAD && next.origin() != self.endpoint.origin() && says_all {
                return Ok(response);
            }
            url = next;
        }
        let problem = format!("is behind more than {REDIRECTS} redirects of {}", self.endpoint);
        Err(Failure::Refused { problem }.into())
    }

    /// Where a redirect leads.
    fn redirected(&self, response: &Response, from: &Url) -> Result<Url, Failure> {
        let location = header(response.headers(), LOCATION.as_str());
        let next = location.and_then(|location| from.join(&location).ok());
        let next = next.ok_or_else(|| self.no_hub("location"))?;
        if next.scheme() == from.scheme() {
            return Ok(next);
        }
        let (scheme, host) = (next.scheme(), from.host_str().unwrap_or_default());
        let problem = format!("is redirected by {host} from {} to {scheme}", from.scheme());
        Err(Failure::Refused { problem: format!("{problem}, which is not followed") })
    }

    fn no_hub(&self, what: &str) -> Failure {
        let problem = format!(
            "could not be looked up: {} does not answer as a hub does (no usable {what}); see \
             HF_ENDPOINT",
            self.endpoint
        );
        Failure::Refused { problem }
    }
}

/// Does what may pass again, up to so many times in all.
async fn retried<T, F>(tries: usize, work: impl Fn() -> F) -> Result<T, Missed>
where
    F: Future<Output = Result<T, Missed>>,
{
    for nth in 1.. {
        match work().await {
            Err(Missed { failure: Failure::Passing { retry_after, .. }, .. }) if nth < tries => {
                tokio::time::sleep(wait(nth, retry_after)).await;
            }
            done => return done,
        }
    }
    unreachable!("the tries are counted")
}

/// The wait after the `nth` try, from 1.
fn wait(nth: usize, asked: Option<Duration>) -> Duration {
    let own = FIRST_WAIT * (1 << (nth - 1).min(8));
    asked.unwrap_or(own).min(LONGEST_WAIT)
}

/// Whether a part of a file begins where it was asked for.
fn starts_at(headers: &HeaderMap, start: u64) -> bool {
    let range = header(headers, "content-range").unwrap_or_default();
    range.strip_prefix("bytes ").is_some_and(|range| range.starts_with(&format!("{start}-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let waits: Vec<_> = (1..9).map(|nth| wait(nth, None).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(wait(1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(wait(1, Some(Duration::from_secs(7000))), LONGEST_WAIT);
    }

    #[test]
    fn a_part_is_taken_for_what_it_says_it_is() {
        let headers = |range: &'static str| {
            HeaderMap::from_iter([(
                reqwest::header::CONTENT_RANGE,
                HeaderValue::from_static(range),
            )])
        };
        assert!(starts_at(&headers("bytes 17-99/100"), 17));
        assert!(!starts_at(&headers("bytes 170-199/200"), 17));
        assert!(!starts_at(&headers("bytes 0-99/100"), 17));
        assert!(!starts_at(&HeaderMap::new(), 17));
    }
}
