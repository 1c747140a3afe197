//! Repeats a request and prints rate, latencies and the server's CPU time as JSON.
//!
//! One thread does everything and never waits for one answer alone. It sends prepared bytes. If it has a core of its
//! own (`--spin`, `--rate`) it does not sleep: nothing has to wake it, so its delays stay below what it measures.

mod connection;
mod echo;
mod http1;
mod http2;
mod plan;
mod run;
mod target;

use std::io::Read;

use clap::Parser;
use nix::sys::resource::{getrlimit, setrlimit, Resource};

use crate::connection::Connection;
use crate::target::{Failure, Target};

/// Repeats a request and prints rate, latencies and the server's CPU time as JSON.
#[derive(Parser)]
pub struct Options {
    /// The URL of the requests: https://HOST:PORT/PATH
    #[arg(long, default_value = "")]
    url: String,
    /// Their method
    #[arg(long, default_value = "PUT")]
    method: String,
    /// Their body; @FILE: what the file holds
    #[arg(long, default_value = "")]
    body: String,
    /// One more header, as NAME=VALUE
    #[arg(long, default_value = "")]
    header: String,
    /// The file with the client's private key
    #[arg(long, default_value = "")]
    key: String,
    /// The file with the client's certificate
    #[arg(long, default_value = "")]
    cert: String,
    /// Use HTTP/2 on one connection, instead of HTTP/1.1 on one connection for each parallel request
    #[arg(long)]
    http2: bool,
    /// The number of parallel requests
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// Open a connection for each request
    #[arg(long)]
    new_connection: bool,
    /// Send this many requests per second, however slow the answers are, and measure latency from the planned time; 0:
    /// send the next request after each answer
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// For how many seconds to send requests
    #[arg(long, default_value_t = 1.0)]
    duration: f64,
    /// How many requests to send, instead of for a time
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// The number of keys that take turns: {n} in the URL is the number of the key
    #[arg(long, default_value_t = 1)]
    keys: u64,
    /// The server's processes, separated by commas: measure their CPU time
    #[arg(long, value_delimiter = ',')]
    pids: Vec<i32>,
    /// Do not sleep while waiting for answers. This needs a core that nothing else uses
    #[arg(long)]
    spin: bool,
    /// Open a connection for each parallel request, send one request on each, print {}, and keep them open until
    /// standard input ends
    #[arg(long)]
    hold: bool,
    /// Measure a thread on this core instead of a server. It returns messages, without TLS and HTTP
    #[arg(long, value_name = "CORE", requires = "rate")]
    echo: Option<usize>,
    /// For how many seconds that thread works for each message
    #[arg(long, default_value_t = 0.0, requires = "echo")]
    work: f64,
}

/// Open connections one after the other, and keep them.
fn hold_open(options: &Options) -> Result<(), Failure> {
    let target = Target::new(options)?;
    let mut connections = Vec::new();
    for number in 0..options.at_once {
        let mut connection = Connection::open(&target, 1)?;
        connection.call(&target, number as u64)?;
        connections.push(connection);
    }
    println!("{{}}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    Ok(())
}

fn work(options: &Options) -> Result<(), Failure> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    match options.echo {
        Some(core) => echo::measure(options, core),
        None if options.hold => hold_open(options),
        None => run::measure(options),
    }
}

fn main() {
    if let Err(error) = work(&Options::parse()) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
