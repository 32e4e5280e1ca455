//! How records and keys are shown.

use std::io::{self, Write};

use clap::ValueEnum;
use sawmill::Record;
use serde_json::json;

/// How a record is shown.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Format {
    /// Position, time, key and payload, with what is not printable escaped.
    #[default]
    Text,
    /// The same with key and payload in hexadecimal.
    Hex,
    /// The payload and nothing else.
    Raw,
    /// One JSON object a line, with key and payload in hexadecimal.
    Json,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes as text, with what is not printable escaped.
pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl Format {
    pub fn write(self, record: &Record, out: &mut impl Write) -> io::Result<()> {
        let (position, time) = (record.position(), record.timestamp());
        match self {
            Format::Text => {
                let (key, payload) = (record.key().escape_ascii(), record.payload().escape_ascii());
                writeln!(out, "{position} {time} {key} {payload}")
            }
            Format::Hex => {
                writeln!(out, "{position} {time} {} {}", hex(record.key()), hex(record.payload()))
            }
            Format::Raw => out.write_all(record.payload()),
            Format::Json => {
                let line = json!({ "shard": record.shard().0, "lsn": record.lsn().0, "time": time,
                    "key": hex(record.key()), "payload": hex(record.payload()) });
                writeln!(out, "{line}")
            }
        }
    }
}
