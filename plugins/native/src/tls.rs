//! TLS on rustls. It proves that the client has the private key of its first certificate, and nothing else: Python
//! decides which certificates are good, and checks the proof.

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{Acceptor, NoServerSessionStorage, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig,
    SignatureScheme,
};

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

fn refuse(reason: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refusal(reason)))))
}

/// Calls `kes_native.clients.ClientVerifier`.
struct Verifier {
    python: Py<PyAny>,
    required: bool,
    schemes: Vec<SignatureScheme>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Verifier")
    }
}

impl Verifier {
    fn verify(
        &self,
        version: &str,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let is_valid = Python::attach(|py| -> PyResult<bool> {
            let arguments = (
                version,
                u16::from(signed.scheme),
                PyBytes::new(py, certificate),
                PyBytes::new(py, message),
                PyBytes::new(py, signed.signature()),
            );
            self.python.bind(py).call_method1(intern!(py, "is_proof"), arguments)?.extract()
        });
        match is_valid {
            Ok(true) => Ok(HandshakeSignatureValid::assertion()),
            _ => Err(Error::InvalidCertificate(CertificateError::BadSignature)),
        }
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let problem = Python::attach(|py| -> PyResult<String> {
            let chain = PyList::new(py, [PyBytes::new(py, leaf)])?;
            for other in others {
                chain.append(PyBytes::new(py, other))?;
            }
            self.python.bind(py).call_method1(intern!(py, "problem"), (chain,))?.extract()
        });
        match problem {
            Ok(problem) if problem.is_empty() => Ok(ClientCertVerified::assertion()),
            Ok(problem) => Err(refuse(problem)),
            Err(_) => Err(refuse("the client's certificate can't be checked".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify("1.2", message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify("1.3", message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Return whether `signature` is that of an Ed25519 key, given in its 32 bytes, for `message`.
#[pyfunction]
pub fn is_ed25519_signature(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let mapping = aws_lc_rs::default_provider().signature_verification_algorithms.mapping;
    let found = mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::ED25519);
    let Some([algorithm, ..]) = found.map(|(_, algorithms)| *algorithms) else { return false };
    algorithm.verify_signature(key, message, signature).is_ok()
}

/// The server's certificate and what it requires of clients.
#[pyclass(frozen)]
pub struct Config {
    with_protocols: Arc<ServerConfig>,
    /// For clients that offer other protocols only: they get HTTP/1.1, as with OpenSSL.
    plain: Arc<ServerConfig>,
}

#[pymethods]
impl Config {
    /// Args: the certificates and the private key (PKCS #8) in DER, the verifier with its signature schemes by number,
    /// and whether a client must present a certificate.
    #[new]
    fn new(
        chain: Vec<Vec<u8>>,
        key: Vec<u8>,
        verifier: Py<PyAny>,
        schemes: Vec<u16>,
        required: bool,
    ) -> PyResult<Self> {
        let mut provider = aws_lc_rs::default_provider();
        // As in `kes_core.tls`: TLS 1.2 with forward secrecy and authenticated encryption only, which is all rustls has.
        provider.cipher_suites.retain(|suite| suite.suite() != CipherSuite::TLS_EMPTY_RENEGOTIATION_INFO_SCSV);
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::try_from(key).map_err(PyValueError::new_err)?;
        let schemes = schemes.into_iter().map(SignatureScheme::from).collect();
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(error)?
            .with_client_cert_verifier(Arc::new(Verifier { python: verifier, required, schemes }))
            .with_single_cert(chain, key)
            .map_err(error)?;
        // A resumed session has no certificate, but each handshake must prove the client's identity.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let plain = Arc::new(config.clone());
        config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        Ok(Config { with_protocols: Arc::new(config), plain })
    }
}

fn error(error: Error) -> PyErr {
    PyValueError::new_err(error.to_string())
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

/// The TLS of one connection. Nothing here waits: encrypted bytes go in and come out.
///
/// It uses rustls without rustls' own buffers, of which each connection would keep 4 KiB.
pub struct Tls {
    config: Py<Config>,
    state: State,
    /// What the client has sent of a record, or of a message in several records, that is not complete.
    input: Vec<u8>,
    pub output: Vec<u8>,
    /// Why the handshake or the connection failed; empty if it did not.
    pub failure: String,
    pub ended: bool,
}

impl Tls {
    pub fn new(config: Py<Config>) -> Self {
        let state = State::Hello(Box::default());
        Tls { config, state, input: Vec::new(), output: Vec::new(), failure: String::new(), ended: false }
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
                    let config = self.config.get();
                    let config = if has_known_protocol { &config.with_protocols } else { &config.plain };
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
