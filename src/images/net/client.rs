//! HTTP clients that connect to permitted addresses alone, and what their failures mean.
//!
//! A name is resolved once for a connection, here; every address that comes of it is checked, and
//! the connection is made to one of exactly those. So a name that changes its mind between check
//! and use gains nothing. No proxies, no redirects, no cookies, no decompression.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{StatusCode, redirect};

use super::Failure;
use super::address::{Opened, is_global};
use super::rules::{not_public, shown};
use crate::error::{Cause, Error, RowError, RowStatus};

/// How long a connection without a request is kept.
const IDLE: Duration = Duration::from_secs(30);

/// EMFILE, ENFILE, ENOMEM: it is not the host that failed.
const OF_MACHINE: [i32; 3] = [24, 23, 12];

/// A client for each port on which an address is opened, and one for all others: a resolver is
/// not told the port.
#[derive(Debug, Clone)]
pub struct Clients {
    by_port: HashMap<u16, Client>,
    others: Client,
}

impl Clients {
    /// # Errors
    /// [`Error::Network`] if there is nothing to check certificates with.
    pub fn new(opened: &[Opened], timeout: Duration) -> Result<Self, Error> {
        let client = |port: Option<u16>| {
            let fits = |range: &&Opened| range.port.is_none() || range.port == port;
            let opened = opened.iter().filter(fits).copied().collect();
            client(Resolver { opened }, timeout)
        };
        let others = client(None)?;
        let ports = opened.iter().filter_map(|range| range.port);
        let by_port = ports.map(|port| Ok((port, client(Some(port))?)));
        Ok(Self { by_port: by_port.collect::<Result<_, Error>>()?, others })
    }

    /// The client for a port.
    pub fn of(&self, port: Option<u16>) -> &Client {
        port.and_then(|port| self.by_port.get(&port)).unwrap_or(&self.others)
    }
}

fn client(resolver: Resolver, timeout: Duration) -> Result<Client, Error> {
    let built = Client::builder()
        .user_agent(concat!("clipmill/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        // Whatever another crate makes this one capable of.
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .connect_timeout(timeout)
        .pool_idle_timeout(IDLE)
        .dns_resolver(Arc::new(resolver))
        .build();
    built.map_err(|source| Error::Network { source: source.into() })
}

/// Resolves names to addresses that may be asked, or to none.
struct Resolver {
    /// On the port of whom it resolves for.
    opened: Vec<Opened>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let opened = self.opened.clone();
        Box::pin(async move {
            // Port 0: the client puts the URL's in its place.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let found: Vec<SocketAddr> = match found {
                Ok(found) => found.collect(),
                Err(error) if is_no_such_name(&error) => return Err(NoSuchName.into()),
                Err(error) => return Err(error.into()),
            };
            let may = |ip: IpAddr| is_global(ip) || opened.iter().any(|range| range.covers(ip));
            // One that is forbidden among others is reason enough.
            if let Some(bad) = found.iter().find(|address| !may(address.ip())) {
                return Err(Cause::from(Forbidden(bad.ip())));
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A name that leads to where nobody may go.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no public address")]
pub struct Forbidden(pub IpAddr);

#[derive(Debug, thiserror::Error)]
#[error("the host does not exist")]
struct NoSuchName;

/// An answer that is not the thing itself.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {status}")]
pub struct Answer {
    status: StatusCode,
    /// How long the server wants to be left alone.
    retry_after: Option<Duration>,
}

impl Answer {
    pub fn new(status: StatusCode, headers: &HeaderMap) -> Self {
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        // A date instead of seconds is as if it were not there.
        let seconds = after.and_then(|text| text.trim().parse().ok());
        Self { status, retry_after: seconds.map(Duration::from_secs) }
    }

    /// What it means for the image at `url`.
    pub fn failure(&self, url: &str) -> Failure {
        let Self { status, retry_after } = *self;
        let message = format!("{:?}: {self}", shown(url));
        let row = |word| Failure::Row(RowError::new(word, message.clone()));
        match status.as_u16() {
            408 | 425 | 429 | 500 | 502 | 503 | 504 => Failure::Passing { message, retry_after },
            404 | 410 => row(RowStatus::ImageMissing),
            _ => row(RowStatus::ImageHttpError),
        }
    }
}

/// What an error of a request means for the image at `url`.
pub fn failure_of(error: &(dyn StdError + 'static), url: &str) -> Failure {
    let mut cause = Some(error);
    let mut last = String::new();
    while let Some(error) = cause {
        if let Some(Forbidden(ip)) = error.downcast_ref() {
            return Failure::Row(not_public(url, *ip));
        }
        if let Some(answer) = error.downcast_ref::<Answer>() {
            return answer.failure(url);
        }
        if error.is::<NoSuchName>() {
            let message = format!("{:?}: {error}", shown(url));
            return Failure::Row(RowError::new(RowStatus::ImageMissing, message));
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if let Some(errno) = error.raw_os_error().filter(|errno| OF_MACHINE.contains(errno)) {
                return Failure::Machine { errno };
            }
            // What rustls says of a certificate, or of bytes that are no TLS.
            if error.kind() == io::ErrorKind::InvalidData {
                let message = format!("{:?}: no safe connection: {error}", shown(url));
                return Failure::Row(RowError::new(RowStatus::ImageHttpError, message));
            }
        }
        last = error.to_string();
        cause = cause_of(error);
    }
    Failure::Passing { message: format!("{:?}: {last}", shown(url)), retry_after: None }
}

/// What is behind an error. An I/O error that was made of another error does not call it its
/// source, but that one's.
fn cause_of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// Whether a resolver says that there is no such name; else it may only be unwell. std keeps
/// getaddrinfo's code to itself, so its words are read: glibc's and musl's.
fn is_no_such_name(error: &io::Error) -> bool {
    let words = error.to_string();
    let known = ["Name or service not known", "No address associated", "Name does not resolve"];
    known.iter().any(|text| words.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a request to a name that leads to this machine.
    fn localhost(opened: &[&str]) -> Failure {
        let opened: Vec<_> = opened.iter().map(|text| Opened::parse(text).expect(text)).collect();
        let clients = Clients::new(&opened, Duration::from_secs(5)).expect("clients");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // Port 1 has no server.
        let url = "http://localhost:1/x?secret";
        let sent = clients.of(Some(1)).get(url).send();
        failure_of(&runtime.expect("a runtime").block_on(sent).expect_err("no server"), url)
    }

    #[test]
    fn a_name_that_leads_to_a_private_address_is_refused_before_any_connection() {
        for opened in [&[][..], &["127.0.0.1:2", "[::1]:2"], &["10.0.0.0/8"]] {
            match localhost(opened) {
                Failure::Row(error) => {
                    assert_eq!(error.status, RowStatus::ImageRefused, "{error:?}");
                    assert!(error.message.contains("no public address"), "{error:?}");
                    assert!(!error.message.contains("secret"), "{error:?}");
                }
                other => unreachable!("{opened:?}: {other:?}"),
            }
        }
        for opened in [&["127.0.0.1:1", "[::1]:1"], &["127.0.0.0/8", "::1/128"]] {
            assert!(matches!(localhost(opened), Failure::Passing { .. }), "{opened:?}");
        }
    }

    #[test]
    fn what_is_wrapped_in_errors_is_found() {
        let url = "https://h.org/x";
        let status = |error: io::Error| match failure_of(&error, url) {
            Failure::Row(error) => Some(error.status),
            _ => None,
        };
        let tls = || io::Error::new(io::ErrorKind::InvalidData, "invalid peer certificate");
        assert_eq!(status(tls()), Some(RowStatus::ImageHttpError));
        assert_eq!(status(io::Error::other(tls())), Some(RowStatus::ImageHttpError));
        let ip = IpAddr::from([127, 0, 0, 1]);
        let forbidden = io::Error::other(io::Error::other(Forbidden(ip)));
        assert_eq!(status(forbidden), Some(RowStatus::ImageRefused));
        assert_eq!(status(io::Error::other(io::Error::other("x"))), None);
        let full = io::Error::other(io::Error::from_raw_os_error(24));
        assert!(matches!(failure_of(&full, url), Failure::Machine { errno: 24 }));
    }

    #[test]
    fn an_answer_is_for_now_or_for_good() {
        let url = "https://h.org/x";
        let of = |code: u16| {
            let status = StatusCode::from_u16(code).expect("a status");
            Answer::new(status, &HeaderMap::new()).failure(url)
        };
        for code in [408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(of(code), Failure::Passing { .. }), "{code}");
        }
        for (code, wanted) in [
            (404, RowStatus::ImageMissing),
            (410, RowStatus::ImageMissing),
            (400, RowStatus::ImageHttpError),
            (401, RowStatus::ImageHttpError),
            (403, RowStatus::ImageHttpError),
            (451, RowStatus::ImageHttpError),
            (501, RowStatus::ImageHttpError),
        ] {
            assert!(
                matches!(of(code), Failure::Row(error) if error.status == wanted),
                "{code} is not {wanted}"
            );
        }
    }
}
