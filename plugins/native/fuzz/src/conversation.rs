//! TLS: a client of rustls talks to the server's side, and its bytes come in pieces, or damaged.

use std::sync::Arc;

use bytes::BytesMut;
use rcgen::{CertifiedKey, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::tls::{ServerConfigs, Tls};

/// The most bytes of incomplete messages that a connection keeps, besides those that it is given.
const MAX_KEPT: usize = 0x1_0000;
/// More than a handshake with a certificate.
const MAX_OUTPUT: usize = 8 * 1024;

/// A server and its clients, of which each has the server's own certificate.
pub struct Peers {
    pub server: Arc<ServerConfigs>,
    clients: [Arc<ClientConfig>; 2],
}

impl Peers {
    /// Make a key and its certificate.
    pub fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let certificate = cert.der().clone();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        // In the server, Python verifies certificates.
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone());
        let verifier = verifier.build().expect("a verifier");
        let server = ServerConfigs::new(vec![certificate.clone()], key(&signing_key), verifier).expect("a server");
        let clients = [&TLS12, &TLS13].map(|version| {
            let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[version]);
            let mut config = builder
                .expect("a version")
                .with_root_certificates(roots.clone())
                .with_client_auth_cert(vec![certificate.clone()], key(&signing_key))
                .expect("a client");
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        });
        Peers { server: Arc::new(server), clients }
    }
}

impl Default for Peers {
    fn default() -> Self {
        Peers::new()
    }
}

fn key(pair: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(pair.serialize_der()).expect("a key")
}

/// A client, the way of its bytes to the server, and the server.
pub struct Conversation {
    client: ClientConnection,
    pub server: Tls,
    /// How many bytes the server gets at once.
    piece: usize,
    /// Which byte of the client is damaged, counted from its first one, and how.
    damage: Option<(usize, u8)>,
    sent: usize,
    /// What the server has decrypted.
    pub plain: BytesMut,
    /// What the client has decrypted.
    pub answers: Vec<u8>,
    /// Whether the client has found a mistake in what the server sent.
    pub is_broken: bool,
}

impl Conversation {
    /// Begin a conversation in TLS 1.3 (`is_new`) or 1.2.
    pub fn new(peers: &Peers, is_new: bool, piece: usize, damage: Option<(usize, u8)>) -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(peers.clients[usize::from(is_new)].clone(), name).expect("a client");
        let (server, plain) = (Tls::new(peers.server.clone()), BytesMut::new());
        let piece = piece.max(1);
        Conversation { client, server, piece, damage, sent: 0, plain, answers: Vec::new(), is_broken: false }
    }

    /// Let both sides send what they have to, until neither has more.
    pub fn settle(&mut self) {
        loop {
            let mut data = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut data).expect("memory");
            }
            if let Some((place, change)) = self.damage {
                if let Some(byte) = place.checked_sub(self.sent).and_then(|place| data.get_mut(place)) {
                    *byte ^= change;
                }
            }
            self.sent += data.len();
            for piece in data.chunks_mut(self.piece) {
                receive(&mut self.server, piece, &mut self.plain);
            }
            let output = std::mem::take(&mut self.server.output);
            if data.is_empty() && output.is_empty() {
                return;
            }
            self.listen(&output);
        }
    }

    fn listen(&mut self, mut output: &[u8]) {
        while !output.is_empty() && !self.is_broken {
            let read = self.client.read_tls(&mut output).is_ok();
            match self.client.process_new_packets() {
                _ if !read => self.is_broken = true,
                Ok(state) => {
                    let start = self.answers.len();
                    self.answers.resize(start + state.plaintext_bytes_to_read(), 0);
                    std::io::Read::read_exact(&mut self.client.reader(), &mut self.answers[start..]).expect("memory");
                }
                Err(_) => self.is_broken = true,
            }
        }
    }

    /// Let the client send `data`.
    pub fn say(&mut self, data: &[u8]) {
        // After damage, the client may still wait for the end of the handshake. It keeps a limited amount until then.
        let _ = std::io::Write::write(&mut self.client.writer(), data);
        self.settle();
    }

    /// Let the client change its keys, if the handshake is over and TLS can do that.
    pub fn change_keys(&mut self) {
        let _ = self.client.refresh_traffic_keys();
    }

    /// Let the client end the connection.
    pub fn close(&mut self) {
        self.client.send_close_notify();
        self.settle();
    }
}

/// Receive a piece. Whatever it has, the connection's memory keeps its limits.
pub fn receive(server: &mut Tls, piece: &mut [u8], plain: &mut BytesMut) {
    let (before, size) = (plain.len(), piece.len());
    let was_open = server.failure.is_empty() && !server.ended;
    server.receive(piece, plain);
    assert!(server.input.len() <= MAX_KEPT + size, "{} bytes of input are kept", server.input.len());
    assert!(server.output.len() <= MAX_OUTPUT, "{} bytes of output", server.output.len());
    assert!(was_open || plain.len() == before, "data after the end");
    assert!(server.is_established() || plain.len() == before || !server.failure.is_empty(), "data before the proof");
}
