//! What a URL may be: its scheme, no user, a host that is listed. Nothing is looked up here.
//!
//! The same rules hold for what a row names and for where a server redirects to.

use std::net::IpAddr;

use url::{Host, Url};

use super::address::{Opened, is_global};
use crate::error::{Error, RowError, RowStatus};
use crate::spec::{ImageUrlSpec, UrlScheme};

/// Longer URLs are an attack, or no URLs.
const MOST_BYTES: usize = 8 << 10;

/// Characters of a URL that a message shows.
const SHOWN: usize = 300;

/// Where the bytes are.
#[derive(Debug)]
pub enum Target {
    Web(Url),
    Object(Object),
}

/// An object of a store.
#[derive(Debug)]
pub struct Object {
    pub store: UrlScheme,
    pub bucket: String,
    pub key: String,
}

/// The rules of one pipeline.
#[derive(Debug)]
pub struct Rules {
    schemes: Vec<UrlScheme>,
    hosts: Vec<HostRule>,
    opened: Vec<Opened>,
}

#[derive(Debug, PartialEq, Eq)]
enum HostRule {
    Any,
    Exactly(String),
    /// Names that end in it. It begins with a dot.
    Beneath(String),
}

impl Rules {
    /// # Errors
    /// [`Error::Setting`] for a host or an address that is none, or a list that lets nothing through.
    pub fn new(spec: &ImageUrlSpec) -> Result<Self, Error> {
        let wrong = |key: &str, problem: String| {
            Err(Error::Setting { key: format!("image.url.{key}"), problem })
        };
        if spec.hosts.is_empty() {
            let problem = "is empty: name the hosts to ask, or write [\"*\"] for any public one";
            return wrong("hosts", problem.into());
        }
        if spec.schemes.is_empty() {
            return wrong("schemes", "is empty: [\"https\"] is the default".into());
        }
        let mut hosts = Vec::new();
        for pattern in &spec.hosts {
            match HostRule::parse(pattern) {
                Some(rule) => hosts.push(rule),
                None => {
                    let problem = format!(
                        "\"{pattern}\" is no host: write a name (images.example.org), \
                         *.example.org, or * alone"
                    );
                    return wrong("hosts", problem);
                }
            }
        }
        let mut opened = Vec::new();
        for text in &spec.private {
            match Opened::parse(text) {
                Some(range) => opened.push(range),
                None => {
                    let problem = format!(
                        "\"{text}\" is no address: write 127.0.0.1:8080 or a range such as \
                         10.1.0.0/16"
                    );
                    return wrong("private", problem);
                }
            }
        }
        Ok(Self { schemes: spec.schemes.clone(), hosts, opened })
    }

    /// The addresses that are open although they are not public.
    pub fn opened(&self) -> &[Opened] {
        &self.opened
    }

    /// Where a row's URL leads to.
    ///
    /// # Errors
    /// `image_url_invalid` for what is no URL, `image_refused` for what may not be asked.
    pub fn target(&self, text: &[u8]) -> Result<Target, RowError> {
        let invalid = |why: &str| {
            let text = String::from_utf8_lossy(text);
            RowError::new(RowStatus::ImageUrlInvalid, format!("{:?}: {why}", shown(&text)))
        };
        let text = str::from_utf8(text).map_err(|_| invalid("the URL is not UTF-8"))?;
        if text.len() > MOST_BYTES {
            return Err(invalid(&format!("the URL has more than {MOST_BYTES} bytes")));
        }
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        let (scheme, rest) =
            text.split_once(':').ok_or_else(|| invalid("it is no URL: it has no scheme"))?;
        let scheme = self.scheme(text, scheme)?;
        match scheme {
            UrlScheme::Http | UrlScheme::Https => {
                let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
                self.check(&url)?;
                Ok(Target::Web(url))
            }
            store => {
                let object = rest.strip_prefix("//").and_then(|rest| rest.split_once('/'));
                let (bucket, key) = object
                    .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
                    .ok_or_else(|| invalid("an object is named scheme://bucket/key"))?;
                if bucket.contains('@') {
                    return Err(with_user(text));
                }
                let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
                if !bucket.chars().all(is_name) || bucket.starts_with(['.', '-']) {
                    return Err(invalid("the bucket's name is none"));
                }
                self.host(text, bucket)?;
                Ok(Target::Object(Object { store, bucket: bucket.into(), key: key.into() }))
            }
        }
    }

    /// Whether a URL of the web may be asked, as far as can be told without looking it up.
    ///
    /// # Errors
    /// `image_refused`.
    pub fn check(&self, url: &Url) -> Result<(), RowError> {
        self.scheme(url.as_str(), url.scheme())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(with_user(url.as_str()));
        }
        self.host(url.as_str(), url.host_str().unwrap_or_default())?;
        let ip = match url.host() {
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        let port = url.port_or_known_default();
        let is_open =
            |range: &Opened| range.covers(ip) && range.port.is_none_or(|open| Some(open) == port);
        match is_global(ip) || self.opened.iter().any(is_open) {
            true => Ok(()),
            false => Err(not_public(url.as_str(), ip)),
        }
    }

    fn scheme(&self, text: &str, scheme: &str) -> Result<UrlScheme, RowError> {
        let named = |known: &UrlScheme| scheme.eq_ignore_ascii_case(known.as_str());
        self.schemes.iter().copied().find(named).ok_or_else(|| {
            let scheme: String = scheme.chars().take(20).collect();
            let cure = match UrlScheme::ALL.iter().any(named) {
                true => "add it to image.url.schemes to allow it",
                false => "clipmill fetches by http, https, s3, gs and az",
            };
            let message =
                format!("{:?}: the scheme {scheme:?} is not allowed: {cure}", shown(text));
            RowError::new(RowStatus::ImageRefused, message)
        })
    }

    fn host(&self, text: &str, host: &str) -> Result<(), RowError> {
        // A dot at the end makes a name absolute, and no other.
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if self.hosts.iter().any(|rule| rule.fits(&host)) {
            return Ok(());
        }
        let message = format!("{:?}: the host {host:?} is not among image.url.hosts", shown(text));
        Err(RowError::new(RowStatus::ImageRefused, message))
    }
}

impl HostRule {
    fn parse(pattern: &str) -> Option<Self> {
        if pattern == "*" {
            return Some(HostRule::Any);
        }
        let (name, beneath) = match pattern.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (pattern, false),
        };
        if name.is_empty() || name.contains('*') {
            return None;
        }
        let host = match name.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => Host::Ipv6(ip),
            // A bucket's name may have what a domain's has not.
            _ => Host::parse(name).ok()?,
        };
        match (host, beneath) {
            (Host::Domain(name), true) => Some(HostRule::Beneath(format!(".{name}"))),
            (_, true) => None,
            (host, false) => Some(HostRule::Exactly(host.to_string())),
        }
    }

    fn fits(&self, host: &str) -> bool {
        match self {
            HostRule::Any => true,
            HostRule::Exactly(name) => host == name,
            HostRule::Beneath(end) => host.len() > end.len() && host.ends_with(end.as_str()),
        }
    }
}

/// A refusal of an address.
pub fn not_public(url: &str, ip: IpAddr) -> RowError {
    let message = format!(
        "{:?}: {ip} is no public address: add it to image.url.private to allow it",
        shown(url)
    );
    RowError::new(RowStatus::ImageRefused, message)
}

fn with_user(url: &str) -> RowError {
    let message = format!("{:?}: a URL with a user or password is refused", shown(url));
    RowError::new(RowStatus::ImageRefused, message)
}

/// A URL as messages show it: without what may be secret (a user, a query), and not too long.
pub fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let start = url.find("//").map_or(0, |at| at + 2);
    let authority_end = url[start..].find(['/', '\\']).map_or(url.len(), |at| start + at);
    let without_user = match url[start..authority_end].rfind('@') {
        Some(at) => format!("{}{}", &url[..start], &url[start + at + 1..]),
        None => url.to_owned(),
    };
    match without_user.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &without_user[..end]),
        None => without_user,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(hosts: &[&str], private: &[&str]) -> Rules {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let text = format!("hosts = {:?}\nprivate = {:?}", owned(hosts), owned(private));
        let mut spec: ImageUrlSpec = toml::from_str(&text).expect("settings");
        spec.schemes = vec![UrlScheme::Https, UrlScheme::Http, UrlScheme::S3];
        Rules::new(&spec).expect("hosts")
    }

    #[test]
    fn each_url_is_taken_or_has_its_status() {
        let rules = rules(
            &["images.example.org", "*.cdn.example.org", "127.0.0.1", "::1", "bucket", "8.8.8.8"],
            &["127.0.0.1:8080"],
        );
        let (refused, invalid) = (RowStatus::ImageRefused, RowStatus::ImageUrlInvalid);
        for (url, wanted) in [
            ("https://images.example.org/a.jpg", RowStatus::Ok),
            ("HTTPS://IMAGES.EXAMPLE.ORG:8443/a.jpg?x=y", RowStatus::Ok),
            ("https://images.example.org./a.jpg", RowStatus::Ok),
            (" https://a.cdn.example.org/x ", RowStatus::Ok),
            ("https://a.b.cdn.example.org/x", RowStatus::Ok),
            ("http://8.8.8.8/x", RowStatus::Ok),
            ("http://127.0.0.1:8080/x", RowStatus::Ok),
            ("http://2130706433:8080/x", RowStatus::Ok),
            ("s3://bucket/some key/with?odd#things", RowStatus::Ok),
            ("http://127.0.0.1/x", refused),
            ("http://127.0.0.1:8081/x", refused),
            ("http://[::1]:8080/x", refused),
            ("https://cdn.example.org/x", refused),
            ("https://xcdn.example.org/x", refused),
            ("https://images.example.org.evil.com/x", refused),
            ("https://evil.com/images.example.org", refused),
            ("https://images.example.org@evil.com/x", refused),
            ("https://user@images.example.org/x", refused),
            ("https://user:pw@images.example.org/x", refused),
            ("https://evil.com\\@images.example.org/x", refused),
            ("https://evil.com#@images.example.org/x", refused),
            ("ftp://images.example.org/x", refused),
            ("file:///etc/passwd", refused),
            ("data:image/png;base64,AAAA", refused),
            ("gs://bucket/key", refused),
            ("s3://other/key", refused),
            ("s3://user@bucket/key", refused),
            ("s3://evil.com:80/key", invalid),
            ("s3://bucket", invalid),
            ("s3:///key", invalid),
            ("https://", invalid),
            ("https://a b/", invalid),
            ("images/a.jpg", invalid),
            ("", invalid),
        ] {
            let found = rules.target(url.as_bytes());
            let status = found.as_ref().map_or_else(|error| error.status, |_| RowStatus::Ok);
            assert_eq!(status, wanted, "{url}: {found:?}");
        }
        assert!(rules.target(b"https://images.example.org/\xff").is_err());
        let long = format!("https://images.example.org/{}", "x".repeat(MOST_BYTES));
        assert_eq!(rules.target(long.as_bytes()).expect_err("long").status, invalid);
    }

    #[test]
    fn a_star_is_any_public_host_and_opens_no_other() {
        let rules = rules(&["*"], &[]);
        assert!(rules.target(b"https://anything.example/x").is_ok());
        assert!(rules.target(b"https://192.168.0.1/x").is_err());
    }

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        assert_eq!(shown("https://u:p@h.org/a@b?token=1#f"), "https://h.org/a@b");
        assert_eq!(shown("https:\\\\u@h.org"), "https:\\\\u@h.org");
        assert_eq!(shown(&"é".repeat(400)).chars().count(), SHOWN + 1);
    }

    #[test]
    fn a_host_that_is_none_is_bad_usage() {
        for hosts in ["[]", "[\"\"]", "[\"*x.org\"]", "[\"a.*\"]", "[\"https://a.org\"]"] {
            let spec = toml::from_str(&format!("hosts = {hosts}")).expect("settings");
            assert_eq!(Rules::new(&spec).expect_err(hosts).exit_code(), 2, "{hosts}");
        }
        let spec = toml::from_str("hosts = [\"*\"]\nprivate = [\"localhost\"]").expect("settings");
        assert_eq!(Rules::new(&spec).expect_err("a name").exit_code(), 2);
    }
}
