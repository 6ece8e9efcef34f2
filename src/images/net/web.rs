//! One try to get an image by HTTP: redirects followed by the rules, a body of bounded size.

use reqwest::header::{ACCEPT, LOCATION};
use reqwest::{Response, StatusCode};
use url::Url;

use super::Failure;
use super::client::{Answer, Clients, failure_of};
use super::fetch::Flow;
use super::rules::{Rules, shown};
use crate::error::{RowError, RowStatus};

/// Redirects that are followed.
const REDIRECTS: usize = 3;

/// Bytes that are set aside on a server's word that they will come.
const BELIEVED: u64 = 16 << 20;

/// Gets images from web servers.
#[derive(Debug)]
pub struct Web {
    pub clients: Clients,
    pub max_bytes: u64,
}

impl Web {
    /// The bytes at a URL that `rules` let through.
    pub async fn get(
        &self,
        rules: &Rules,
        first: &Url,
        flow: &mut Flow<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let mut url = first.clone();
        for _ in 0..=REDIRECTS {
            let client = self.clients.of(url.port_or_known_default());
            let sent = client.get(url.clone()).header(ACCEPT, "*/*").send();
            let answered = flow.timed(sent, first.as_str()).await?;
            let response = answered.map_err(|error| failure_of(&error, first.as_str()))?;
            match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => {
                    url = redirected(&response, &url).map_err(|why| wrong_answer(first, &why))?;
                    rules.check(&url).map_err(|error| refused_redirect(first, error))?;
                }
                _ if response.status() == StatusCode::OK => {
                    return self.body(response, first.as_str(), flow).await;
                }
                _ => {
                    let answer = Answer::new(response.status(), response.headers());
                    return Err(answer.failure(first.as_str()));
                }
            }
        }
        Err(wrong_answer(first, &format!("more than {REDIRECTS} redirects")))
    }

    async fn body(
        &self,
        mut response: Response,
        url: &str,
        flow: &mut Flow<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let said = response.content_length().unwrap_or(0);
        if said > self.max_bytes {
            return Err(too_large(url, self.max_bytes));
        }
        flow.reserve(said).await;
        let mut bytes = Vec::with_capacity(said.min(BELIEVED) as usize);
        // A body that ends before its length says so is an error of the client's.
        while let Some(chunk) =
            flow.timed(response.chunk(), url).await?.map_err(|error| failure_of(&error, url))?
        {
            let length = (bytes.len() + chunk.len()) as u64;
            if length > self.max_bytes {
                return Err(too_large(url, self.max_bytes));
            }
            flow.reserve(length).await;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// Where a redirect leads to, or what is wrong with it.
fn redirected(response: &Response, from: &Url) -> Result<Url, String> {
    let location = response.headers().get(LOCATION).ok_or("a redirect without a location")?;
    let location = str::from_utf8(location.as_bytes()).map_err(|_| "a redirect to no URL")?;
    from.join(location).map_err(|error| format!("a redirect to no URL: {error}"))
}

fn wrong_answer(url: &Url, why: &str) -> Failure {
    let message = format!("{:?}: {why}", shown(url.as_str()));
    Failure::Row(RowError::new(RowStatus::ImageHttpError, message))
}

fn refused_redirect(from: &Url, error: RowError) -> Failure {
    let message = format!("{:?} redirects to {}", shown(from.as_str()), error.message);
    Failure::Row(RowError::new(error.status, message))
}

/// A body that is larger than allowed.
pub fn too_large(url: &str, max_bytes: u64) -> Failure {
    let message = format!("{:?} has more than {max_bytes} bytes (max_bytes)", shown(url));
    Failure::Row(RowError::new(RowStatus::ImageTooLarge, message))
}
