//! Who may connect: TLS proves that the client has the private key of its first certificate, and nothing else. Python
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
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::tls::{refuse, ServerConfigs};

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
pub struct Config(pub Arc<ServerConfigs>);

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
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::try_from(key).map_err(PyValueError::new_err)?;
        let schemes = schemes.into_iter().map(SignatureScheme::from).collect();
        let verifier = Arc::new(Verifier { python: verifier, required, schemes });
        let configs =
            ServerConfigs::new(chain, key, verifier).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Config(Arc::new(configs)))
    }
}
