//! What all requests have in common.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use bytes::Bytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::Options;

pub type Failure = Box<dyn std::error::Error>;

pub struct Target {
    pub config: Arc<ClientConfig>,
    pub address: SocketAddr,
    pub name: ServerName<'static>,
    pub is_http2: bool,
    pub method: String,
    pub authority: String,
    path: String,
    pub header: Option<(String, String)>,
    pub body: Bytes,
    keys: u64,
}

impl Target {
    pub fn new(options: &Options) -> Result<Self, Failure> {
        let rest = options.url.strip_prefix("https://").ok_or("the URL must begin with https://")?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, _) = authority.rsplit_once(':').ok_or("the URL must have a port")?;
        let address = authority.to_socket_addrs()?.next().ok_or("the URL's host has no address")?;
        let body = match options.body.strip_prefix('@') {
            Some(file) => std::fs::read(file)?.into(),
            None => Bytes::copy_from_slice(options.body.as_bytes()),
        };
        Ok(Target {
            config: Arc::new(tls(options)?),
            address,
            name: ServerName::try_from(host.to_owned())?,
            is_http2: options.http2,
            method: options.method.clone(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            header: options.header.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())),
            body,
            keys: options.keys,
        })
    }

    /// The path of a request.
    pub fn path(&self, number: u64) -> String {
        if self.keys > 1 {
            self.path.replacen("{n}", &(number % self.keys).to_string(), 1)
        } else {
            self.path.clone()
        }
    }
}

fn tls(options: &Options) -> Result<ClientConfig, Failure> {
    let chain = CertificateDer::pem_file_iter(&options.cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&options.key)?;
    let mut provider = aws_lc_rs::default_provider();
    // The clients of key servers are in Go, whose TLS prefers this. Servers may follow the client.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NoVerifier))
        .with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    if options.http2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(config)
}

/// Believes every server: the benchmark has started it itself.
#[derive(Debug)]
struct NoVerifier;

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
