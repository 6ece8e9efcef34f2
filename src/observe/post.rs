//! Events posted to a server, in order, from a thread of their own: the run waits for none of them,
//! and at its end only so long.
//!
//! What the events say is `lineage`'s. The key goes to the URL's host alone: no redirect is followed.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, StatusCode, redirect};
use tokio::runtime::Builder;
use url::Url;

use crate::error::{Error, in_words};
use crate::log::Event;

/// For a request, from the connection to the answer's end.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Tries of an event.
const TRIES: u32 = 3;

/// The wait before the second try; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// How long the end of a run may wait for what is still on its way.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// A server that takes events.
pub struct Post {
    host: String,
    /// None once all have been given.
    events: Mutex<Option<Sender<String>>>,
    /// Closed when all have been delivered, or given up.
    done: Mutex<Receiver<()>>,
}

/// Where events go, and by which right.
struct Address {
    url: Url,
    host: String,
    key: Option<HeaderValue>,
}

impl Post {
    /// A server, with the key that it is shown.
    ///
    /// # Errors
    /// `Setting` for a key that cannot be sent; `Thread`.
    pub fn to(url: Url, key: Option<&str>) -> Result<Self, Error> {
        let key = key.map(|key| {
            let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| {
                let problem = "holds characters that no key has: copy it again".to_owned();
                Error::Setting { key: "OPENLINEAGE_API_KEY".into(), problem }
            })?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        });
        let host = url.host_str().unwrap_or_default().to_owned();
        let address = Address { url, host: host.clone(), key: key.transpose()? };
        let (events, given) = channel();
        let (delivered, done) = channel();
        std::thread::Builder::new()
            .name("lineage".to_owned())
            .spawn(move || {
                address.deliver(&given);
                drop(delivered);
            })
            .map_err(|source| Error::Thread { stage: "lineage", source })?;
        Ok(Self { host, events: Mutex::new(Some(events)), done: Mutex::new(done) })
    }

    /// Gives an event to be sent after those before it.
    pub fn send(&self, event: String) {
        if let Some(events) = &*self.events.lock().unwrap_or_else(PoisonError::into_inner) {
            // The thread has said already why it takes no more.
            let _ = events.send(event);
        }
    }

    /// Waits a while until all are delivered.
    pub fn finish(&self) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.recv_timeout(LAST_WAIT) == Err(RecvTimeoutError::Timeout) {
            let (host, seconds) = (&self.host, LAST_WAIT.as_secs());
            not_told(host, &format!("it has not taken the run's events within {seconds} s"));
        }
    }
}

impl Address {
    /// Sends events until no more are given.
    fn deliver(&self, events: &Receiver<String>) {
        let client = Client::builder()
            .user_agent(concat!("clipmill/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(TIMEOUT)
            .build();
        let client = client.map_err(|error| in_words(&error));
        let runtime = Builder::new_current_thread().enable_all().build();
        let made = client.and_then(|c| Ok((c, runtime.map_err(|error| error.to_string())?)));
        let (client, runtime) = match made {
            Ok(made) => made,
            Err(why) => return not_told(&self.host, &why),
        };
        for event in events {
            if let Err(why) = runtime.block_on(self.post(&client, &event)) {
                not_told(&self.host, &why);
            }
        }
    }

    /// Sends one event, again where another try may go better.
    async fn post(&self, client: &Client, event: &str) -> Result<(), String> {
        for nth in 0.. {
            let mut request =
                client.post(self.url.clone()).header(CONTENT_TYPE, "application/json");
            if let Some(key) = &self.key {
                request = request.header(AUTHORIZATION, key.clone());
            }
            let (why, may_pass) = match request.body(event.to_owned()).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => {
                    let status = answer.status();
                    let may_pass =
                        status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                    (format!("it answered {status}"), may_pass)
                }
                Err(error) => (in_words(&error.without_url()), true),
            };
            if !may_pass || nth + 1 == TRIES {
                return Err(why);
            }
            tokio::time::sleep(FIRST_WAIT * 2_u32.pow(nth)).await;
        }
        unreachable!("the tries are counted")
    }
}

/// Says that somebody was not told of the run, which goes on.
fn not_told(host: &str, why: &str) {
    let message =
        format!("lineage: {host} was not told of the run: {why}; the run does not need it");
    Event::warning(message).with("host", host).say();
}
