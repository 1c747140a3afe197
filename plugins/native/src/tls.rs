//! TLS on rustls. Nothing here waits: encrypted bytes go in and come out.

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, NoServerSessionStorage, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CertificateError, CipherSuite, Error, OtherError, ServerConfig};

const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The bytes of incomplete messages that a connection keeps. It is rustls' own limit for its buffers.
const MAX_INPUT: usize = 0xffff;
/// The most bytes of data in a record, and the most that a record adds to them (RFC 5246, section 6.2; RFC 8446,
/// section 5.2).
const MAX_RECORD: usize = 16 * 1024;
const RECORD_OVERHEAD: usize = 32;

/// Why a certificate is refused, for the operator.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Return the error of a verifier that refuses a certificate.
pub fn refuse(reason: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refusal(reason)))))
}

/// The server's certificate and what it requires of clients.
pub struct ServerConfigs {
    with_protocols: Arc<ServerConfig>,
    /// For clients that offer other protocols only: they get HTTP/1.1, as with OpenSSL.
    plain: Arc<ServerConfig>,
}

impl ServerConfigs {
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Result<Self, Error> {
        let mut provider = aws_lc_rs::default_provider();
        // As in `kes_core.tls`: TLS 1.2 with forward secrecy and authenticated encryption only, which is all rustls has.
        provider.cipher_suites.retain(|suite| suite.suite() != CipherSuite::TLS_EMPTY_RENEGOTIATION_INFO_SCSV);
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        // A resumed session has no certificate, but each handshake must prove the client's identity.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let plain = Arc::new(config.clone());
        config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        Ok(ServerConfigs { with_protocols: Arc::new(config), plain })
    }
}

enum State {
    /// Reads the client's first message, which decides about the configuration.
    Hello(Box<Acceptor>),
    Open(Box<UnbufferedServerConnection>),
    Failed,
}

/// Why the client's first message can't be read.
enum Failure {
    Tls(Error),
    Read(std::io::Error),
}

/// The number of bytes that rustls has written.
type Written = Result<usize, EncryptError>;

/// Read a part of the client's first message. When it is complete, return whether the client offers a protocol of ours.
fn read_hello(acceptor: &mut Acceptor, mut data: &[u8], output: &mut Vec<u8>) -> Result<Option<bool>, Failure> {
    while !data.is_empty() {
        acceptor.read_tls(&mut data).map_err(Failure::Read)?;
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let known = |name: &[u8]| PROTOCOLS.contains(&name);
                return Ok(Some(accepted.client_hello().alpn().is_some_and(|mut names| names.any(known))));
            }
            Err((error, mut alert)) => {
                let _ = alert.write_all(output);
                return Err(Failure::Tls(error));
            }
        }
    }
    Ok(None)
}

/// Append a part of the handshake, or an alert.
fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, output: &mut Vec<u8>) {
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
        let start = output.len();
        output.resize(start + needed.required_size, 0);
        let written = data.encode(&mut output[start..]).unwrap_or(0);
        output.truncate(start + written);
    }
}

/// The TLS of one connection.
///
/// It uses rustls without rustls' own buffers, of which each connection would keep 4 KiB.
pub struct Tls {
    configs: Arc<ServerConfigs>,
    state: State,
    /// What the client has sent of a record, or of a message in several records, that is not complete.
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    /// Why the handshake or the connection failed; empty if it did not.
    pub failure: String,
    pub ended: bool,
}

impl Tls {
    pub fn new(configs: Arc<ServerConfigs>) -> Self {
        let state = State::Hello(Box::default());
        Tls { configs, state, input: Vec::new(), output: Vec::new(), failure: String::new(), ended: false }
    }

    pub fn is_established(&self) -> bool {
        matches!(&self.state, State::Open(tls) if !tls.is_handshaking())
    }

    pub fn is_http2(&self) -> bool {
        matches!(&self.state, State::Open(tls) if tls.alpn_protocol() == Some(b"h2"))
    }

    pub fn certificates(&self) -> Vec<Vec<u8>> {
        let State::Open(tls) = &self.state else { return Vec::new() };
        tls.peer_certificates().unwrap_or_default().iter().map(|item| item.to_vec()).collect()
    }

    /// Receive encrypted bytes; append what is decrypted to `plain`. This changes `data`.
    pub fn receive(&mut self, data: &mut [u8], plain: &mut BytesMut) {
        if !self.failure.is_empty() || self.ended {
            return;
        }
        if let State::Hello(acceptor) = &mut self.state {
            match read_hello(acceptor, data, &mut self.output) {
                Ok(None) => return self.input.extend_from_slice(data),
                Ok(Some(has_known_protocol)) => {
                    let configs = &self.configs;
                    let config = if has_known_protocol { &configs.with_protocols } else { &configs.plain };
                    match UnbufferedServerConnection::new(config.clone()) {
                        Ok(tls) => self.state = State::Open(Box::new(tls)),
                        Err(error) => return self.fail_with(&error),
                    }
                }
                Err(Failure::Tls(error)) => return self.fail_with(&error),
                Err(Failure::Read(error)) => return self.fail(&error.to_string()),
            }
        }
        if self.input.is_empty() {
            let used = self.process(data, plain);
            self.input = data[used..].to_vec();
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(data);
            let used = self.process(&mut input, plain);
            input.drain(..used);
            if !input.is_empty() {
                self.input = input; // otherwise an idle connection would keep it
            }
        }
        if self.input.len() > MAX_INPUT {
            self.fail("message buffer full");
        }
    }

    /// Process received bytes; return how many of them have done their part.
    fn process(&mut self, input: &mut [u8], plain: &mut BytesMut) -> usize {
        let State::Open(tls) = &mut self.state else { return 0 };
        let mut used = 0;
        let mut failure = None;
        loop {
            let UnbufferedStatus { mut discard, state, .. } = tls.process_tls_records(&mut input[used..]);
            let mut is_done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                plain.extend_from_slice(record.payload);
                                discard += record.discard;
                            }
                            Err(error) => {
                                failure = Some(error);
                                is_done = true;
                                break;
                            }
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.output),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(_) => is_done = true,
                Err(error) => {
                    failure = Some(error);
                    is_done = true;
                }
            }
            used += discard;
            if is_done {
                break;
            }
        }
        if let Some(error) = failure {
            while tls.wants_write() {
                match tls.process_tls_records(&mut input[used..]).state {
                    Ok(ConnectionState::EncodeTlsData(alert)) => encode(alert, &mut self.output),
                    _ => break,
                }
            }
            self.fail_with(&error);
        }
        if self.ended || !self.failure.is_empty() {
            return input.len();
        }
        used
    }

    /// Let rustls write into the output.
    fn write(
        &mut self,
        size: usize,
        write: impl Fn(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Written,
    ) {
        let State::Open(tls) = &mut self.state else { return };
        loop {
            match tls.process_tls_records(&mut self.input).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.output),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {}
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let start = self.output.len();
                    self.output.resize(start + size, 0);
                    let mut written = write(&mut traffic, &mut self.output[start..]);
                    if let Err(EncryptError::InsufficientSize(needed)) = written {
                        self.output.resize(start + needed.required_size, 0);
                        written = write(&mut traffic, &mut self.output[start..]);
                    }
                    self.output.truncate(start + written.unwrap_or(0));
                    return;
                }
                _ => return,
            }
        }
    }

    /// Encrypt `data`.
    pub fn send(&mut self, data: &[u8]) {
        let records = data.len() / MAX_RECORD + 1;
        self.write(data.len() + records * RECORD_OVERHEAD, |traffic, output| traffic.encrypt(data, output));
    }

    /// Drop the beginning of the output, which is sent.
    pub fn drop_output(&mut self, size: usize) {
        if size < self.output.len() {
            self.output.drain(..size);
        } else {
            self.output = Vec::new(); // an idle connection keeps no buffer
        }
    }

    /// Say that no more data follows.
    pub fn close(&mut self) {
        self.write(RECORD_OVERHEAD, |traffic, output| traffic.queue_close_notify(output));
    }

    fn fail(&mut self, reason: &str) {
        self.failure = reason.to_owned();
        self.state = State::Failed;
    }

    fn fail_with(&mut self, error: &Error) {
        let text = match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) => reason.to_string(),
            Error::NoCertificatesPresented => "the client presented no certificate".to_owned(),
            Error::InvalidCertificate(CertificateError::BadSignature) => {
                "the client did not prove that it has the private key of its certificate".to_owned()
            }
            Error::InvalidMessage(_) => "the client does not speak TLS".to_owned(),
            Error::AlertReceived(alert) => format!("the client sent the alert {alert:?}"),
            Error::PeerIncompatible(reason) => format!("the client and the server have nothing in common: {reason:?}"),
            other => other.to_string(),
        };
        self.fail(&text);
    }
}
