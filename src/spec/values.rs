//! Settings that are written as one word with a rule of its own: a device, a share of rows.

use serde::{Deserialize, Serialize};

/// `device = ...`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// The first CUDA device that can be used, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda(usize),
    /// Every CUDA device of the machine.
    CudaAll,
}

impl std::str::FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no device: use auto, cpu, cuda, cuda:N or cuda:*");
        match text {
            "auto" => Ok(DeviceSpec::Auto),
            "cpu" => Ok(DeviceSpec::Cpu),
            "cuda" => Ok(DeviceSpec::Cuda(0)),
            "cuda:*" => Ok(DeviceSpec::CudaAll),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(wrong)?;
                index.parse().map(DeviceSpec::Cuda).map_err(|_| wrong())
            }
        }
    }
}

impl std::fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceSpec::Auto => f.write_str("auto"),
            DeviceSpec::Cpu => f.write_str("cpu"),
            DeviceSpec::Cuda(index) => write!(f, "cuda:{index}"),
            DeviceSpec::CudaAll => f.write_str("cuda:*"),
        }
    }
}

/// `max_failed = 10` or `max_failed = "1%"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxFailed {
    Rows(u64),
    Percent(f64),
}

impl MaxFailed {
    /// Whether `failed` of `rows` is more than allowed.
    pub fn exceeded(self, failed: u64, rows: u64) -> bool {
        match self {
            MaxFailed::Rows(most) => failed > most,
            MaxFailed::Percent(most) => failed as f64 * 100.0 > most * rows as f64,
        }
    }
}

impl std::str::FromStr for MaxFailed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" is neither a number of rows nor a percentage such as 1%");
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.trim().parse::<f64>() {
                Ok(value) if (0.0..=100.0).contains(&value) => Ok(MaxFailed::Percent(value)),
                _ => Err(wrong()),
            };
        }
        text.parse().map(MaxFailed::Rows).map_err(|_| wrong())
    }
}

impl std::fmt::Display for MaxFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MaxFailed::Rows(most) => write!(f, "{most}"),
            MaxFailed::Percent(most) => write!(f, "{most}%"),
        }
    }
}

impl<'de> Deserialize<'de> for MaxFailed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            other => other.to_string(),
        };
        written.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for DeviceSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for MaxFailed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for DeviceSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda:0", "cuda:7", "cuda:*"] {
            assert_eq!(
                text.parse::<DeviceSpec>().map(|device| device.to_string()),
                Ok(text.into())
            );
        }
        for text in ["gpu", "cuda:", "cuda:-1", "cuda:**", "CUDA"] {
            assert!(text.parse::<DeviceSpec>().is_err(), "{text}");
        }
    }
}
