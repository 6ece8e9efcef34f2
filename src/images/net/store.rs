//! One try to get an image from an object store: S3, Google Cloud Storage, Azure Blob Storage.
//!
//! Endpoint and credentials come from the environment, as each cloud's own tools read them; a row
//! only names a bucket and a key. Requests go through the clients of `client`, so an endpoint that
//! is not public has to be opened too. Retries are not done here.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};

use super::Failure;
use super::address::{Opened, is_global};
use super::client::{Answer, Clients, Forbidden, failure_of};
use super::fetch::Flow;
use super::rules::Object;
use super::web::too_large;
use crate::error::{Error, RowError, RowStatus};
use crate::spec::UrlScheme;
use crate::store::{Cloud, connect};

/// Stores that are kept open. More buckets than this in turn are opened anew.
const MOST_OPEN: usize = 64;

/// Where machines of the clouds learn their credentials. No row leads there: a bucket is a label
/// of the provider's domain, or a part of a path.
const METADATA: [Opened; 4] = [
    Opened::one(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254))),
    Opened::one(IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2))),
    Opened::one(IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23))),
    Opened::one(IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254))),
];

/// Gets images from object stores.
#[derive(Debug)]
pub struct Stores {
    connector: Connector,
    open: Mutex<HashMap<(UrlScheme, String), Arc<dyn ObjectStore>>>,
    max_bytes: u64,
}

impl Stores {
    /// # Errors
    /// [`Error::Network`], as [`Clients::new`].
    pub fn new(opened: &[Opened], timeout: Duration, max_bytes: u64) -> Result<Self, Error> {
        let opened: Vec<_> = opened.iter().copied().chain(METADATA).collect();
        let clients = Clients::new(&opened, timeout)?;
        let connector = Connector(Arc::new(Guarded { clients, opened }));
        Ok(Self { connector, open: Mutex::default(), max_bytes })
    }

    /// The bytes of an object.
    pub async fn get(&self, object: &Object, flow: &mut Flow<'_>) -> Result<Vec<u8>, Failure> {
        let url = object.url();
        let failed = |error: object_store::Error| failure(&error, &url);
        let path = Path::parse(&object.key).map_err(|error| invalid(&url, &error.to_string()))?;
        let store = self.store(object).map_err(failed)?;
        let found = flow.timed(store.get(&path), &url).await?.map_err(failed)?;
        // The body has exactly this length, or is an error.
        if found.meta.size > self.max_bytes {
            return Err(too_large(&url, self.max_bytes));
        }
        flow.reserve(found.meta.size).await;
        let bytes = flow.timed(found.bytes(), &url).await?.map_err(failed)?;
        Ok(bytes.into())
    }

    fn store(&self, object: &Object) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
        let key = (object.store, object.bucket.clone());
        // A thread that panicked while it held the lock has left a map.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = open.get(&key) {
            return Ok(store.clone());
        }
        let store = self.open_store(object)?;
        if open.len() >= MOST_OPEN {
            open.clear();
        }
        open.insert(key, store.clone());
        Ok(store)
    }

    fn open_store(&self, object: &Object) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
        let cloud = match object.store {
            UrlScheme::Gs => Cloud::Gs,
            UrlScheme::Az => Cloud::Az,
            UrlScheme::S3 | UrlScheme::Http | UrlScheme::Https => Cloud::S3,
        };
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        connect(cloud, &object.bucket, self.connector.clone(), retry)
    }
}

impl Object {
    /// As the row wrote it.
    pub fn url(&self) -> String {
        format!("{}://{}/{}", self.store.as_str(), self.bucket, self.key)
    }
}

fn invalid(url: &str, why: &str) -> Failure {
    Failure::Row(RowError::new(RowStatus::ImageUrlInvalid, format!("{url:?}: {why}")))
}

fn failure(error: &object_store::Error, url: &str) -> Failure {
    use object_store::Error as E;
    let row = |status, why: &str| Failure::Row(RowError::new(status, format!("{url:?}: {why}")));
    match error {
        E::NotFound { .. } => row(RowStatus::ImageMissing, "there is no such object"),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            let why = "the store refuses access: check its credentials in the environment";
            row(RowStatus::ImageHttpError, why)
        }
        E::InvalidPath { source } => invalid(url, &source.to_string()),
        E::Generic { .. } => failure_of(error, url),
        other => row(RowStatus::ImageHttpError, &other.to_string()),
    }
}

/// Gives every store the same clients.
#[derive(Debug, Clone)]
struct Connector(Arc<Guarded>);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service(self.0.clone())))
    }
}

#[derive(Debug)]
struct Guarded {
    clients: Clients,
    opened: Vec<Opened>,
}

#[derive(Debug)]
struct Service(Arc<Guarded>);

impl Service {
    /// A client for where the request goes, if it may go there. Names are the client's to check.
    fn client(&self, request: &HttpRequest) -> Result<reqwest::Client, HttpError> {
        let Guarded { clients, opened } = self.0.as_ref();
        let uri = request.uri();
        let port = uri.port_u16().or(match uri.scheme_str() {
            Some("https") => Some(443),
            _ => Some(80),
        });
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if let Ok(ip) = host.parse::<IpAddr>() {
            let is_open = |range: &Opened| {
                range.covers(ip) && range.port.is_none_or(|open| Some(open) == port)
            };
            if !is_global(ip) && !opened.iter().any(is_open) {
                return Err(HttpError::new(HttpErrorKind::Unknown, Forbidden(ip)));
            }
        }
        Ok(clients.of(port).clone())
    }

    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.client(&request)?.call(request).await?;
        let status = response.status();
        match status.as_u16() {
            // The library has words of its own for these.
            200..=299 | 304 | 401 | 403 | 404 | 409 | 412 => Ok(response),
            _ => {
                let answer = Answer::new(status, response.headers());
                Err(HttpError::new(HttpErrorKind::Unknown, answer))
            }
        }
    }
}

impl HttpService for Service {
    // What `#[async_trait]` makes of `async fn call`.
    fn call<'a, 'f>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(self.answer(request))
    }
}
