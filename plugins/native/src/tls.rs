//! TLS on rustls. It proves that the client has the private key of its first certificate, and nothing else: Python
//! decides which certificates are good, and checks the proof.

use std::fmt;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{Acceptor, NoServerSessionStorage};
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig,
    ServerConnection, SignatureScheme,
};

const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The size of a buffer that a connection keeps for its next answers.
const MAX_KEPT_OUTPUT: usize = 16 * 1024;

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
    Hello(Box<Acceptor>),
    Open(Box<ServerConnection>),
    Failed,
}

/// The TLS of one connection. Nothing here waits: encrypted bytes go in and come out.
pub struct Tls {
    config: Py<Config>,
    state: State,
    pub output: Vec<u8>,
    /// Why the handshake or the connection failed; empty if it did not.
    pub failure: String,
    pub ended: bool,
}

impl Tls {
    pub fn new(config: Py<Config>) -> Self {
        let state = State::Hello(Box::default());
        Tls { config, state, output: Vec::new(), failure: String::new(), ended: false }
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

    /// Receive encrypted bytes; append what is decrypted to `plain`.
    pub fn receive(&mut self, mut data: &[u8], plain: &mut bytes::BytesMut) {
        while !data.is_empty() && self.failure.is_empty() && !self.ended {
            match &mut self.state {
                State::Hello(acceptor) => {
                    let read = acceptor.read_tls(&mut data);
                    if let Err(error) = read {
                        self.fail(&error.to_string());
                        return;
                    }
                    match acceptor.accept() {
                        Ok(None) => {}
                        Ok(Some(accepted)) => {
                            let config = self.config.get();
                            let known = |name: &[u8]| PROTOCOLS.contains(&name);
                            let has_none = accepted.client_hello().alpn().is_none_or(|mut names| !names.any(known));
                            let config = if has_none { &config.plain } else { &config.with_protocols };
                            match accepted.into_connection(config.clone()) {
                                Ok(mut tls) => {
                                    tls.set_buffer_limit(None);
                                    self.state = State::Open(Box::new(tls));
                                    self.process(plain);
                                }
                                Err((error, mut alert)) => {
                                    let _ = alert.write_all(&mut self.output);
                                    self.fail_with(&error);
                                }
                            }
                        }
                        Err((error, mut alert)) => {
                            let _ = alert.write_all(&mut self.output);
                            self.fail_with(&error);
                        }
                    }
                }
                State::Open(tls) => {
                    if let Err(error) = tls.read_tls(&mut data) {
                        self.fail(&error.to_string());
                        return;
                    }
                    self.process(plain);
                }
                State::Failed => return,
            }
        }
    }

    fn process(&mut self, plain: &mut bytes::BytesMut) {
        use std::io::Read;
        let State::Open(tls) = &mut self.state else { return };
        let result = tls.process_new_packets();
        let failure = match result {
            Ok(state) => {
                let size = state.plaintext_bytes_to_read();
                if size > 0 {
                    let start = plain.len();
                    plain.resize(start + size, 0);
                    if tls.reader().read_exact(&mut plain[start..]).is_err() {
                        plain.truncate(start);
                    }
                }
                self.ended = state.peer_has_closed();
                None
            }
            Err(error) => Some(error),
        };
        self.write_out();
        if let Some(error) = failure {
            self.fail_with(&error);
        }
    }

    fn write_out(&mut self) {
        let State::Open(tls) = &mut self.state else { return };
        while tls.wants_write() {
            if tls.write_tls(&mut self.output).is_err() {
                break;
            }
        }
    }

    /// Encrypt `data`.
    pub fn send(&mut self, data: &[u8]) {
        use std::io::Write;
        if let State::Open(tls) = &mut self.state {
            let _ = tls.writer().write_all(data);
        }
        self.write_out();
    }

    /// Drop the beginning of the output, which is sent.
    pub fn drop_output(&mut self, size: usize) {
        if size < self.output.len() {
            self.output.drain(..size);
        } else if self.output.capacity() > MAX_KEPT_OUTPUT {
            self.output = Vec::new();
        } else {
            self.output.clear();
        }
    }

    /// Say that no more data follows.
    pub fn close(&mut self) {
        if let State::Open(tls) = &mut self.state {
            tls.send_close_notify();
        }
        self.write_out();
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
