//! Keys that connections are signed with (TCP MD5 signatures, RFC 2385), as BGP daemons have them.
//!
//! Owns the keys, and which one an address has. Must never show one: not in logs, errors or `Debug`.
//!
//! The kernel signs and checks: a segment without the right signature never reaches us. An address that no key is for
//! connects unsigned.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;
use tracing::warn;

use super::sys;

/// The bytes that a key may have at most: the kernel's limit.
pub const MD5_KEY_BYTES_MAX: usize = sys::MD5_KEY_BYTES_MAX;

/// A key for all peers, or servers, of a network. Of several networks that an address is in, the most specific counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Md5Key {
    network: IpNet,
    origin: Origin,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Origin {
    File(PathBuf),
    Bytes(Secret),
}

impl Md5Key {
    /// One that is read from a file when the node starts: all its bytes, without the line end that it may end with.
    /// 1 to 80 bytes.
    pub fn from_file(network: IpNet, file: impl Into<PathBuf>) -> Md5Key {
        Md5Key { network: folded(network), origin: Origin::File(file.into()) }
    }

    /// These bytes: 1 to 80, which is looked at when the node starts.
    pub fn from_bytes(network: IpNet, key: &[u8]) -> Md5Key {
        Md5Key { network: folded(network), origin: Origin::Bytes(Secret(key.into())) }
    }

    /// The network whose peers have it; one of IPv4 in IPv6 dress is IPv4.
    pub fn network(&self) -> IpNet {
        self.network
    }

    fn read(&self) -> Result<Signed, Md5Error> {
        let network = self.network;
        let secret = match &self.origin {
            Origin::File(file) => read_file(file)?,
            Origin::Bytes(secret) if (1..=MD5_KEY_BYTES_MAX).contains(&secret.0.len()) => {
                secret.clone()
            }
            Origin::Bytes(secret) => {
                return Err(Md5Error::Length { network, bytes: secret.0.len() });
            }
        };
        Ok(Signed { network, secret })
    }
}

/// What is wrong with the keys.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum Md5Error {
    /// A file that cannot be read.
    #[error("cannot read the key file {}: {source}", .file.display())]
    Unreadable {
        /// Its path.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file without a key.
    #[error("the key file {} is empty: it has to have 1 to 80 bytes", .file.display())]
    Empty {
        /// Its path.
        file: PathBuf,
    },
    /// A file with too long a key.
    #[error("the key file {} has more than the 80 bytes that a key may have", .file.display())]
    TooLong {
        /// Its path.
        file: PathBuf,
    },
    /// A key that the caller gave.
    #[error("the key for {network} has {bytes} bytes: it has to have 1 to 80")]
    Length {
        /// Its network.
        network: IpNet,
        /// How many it has.
        bytes: usize,
    },
    /// One network has two keys.
    #[error("there are two keys for {0}: give it one")]
    Twice(IpNet),
    /// A kernel without signatures.
    #[error("this kernel cannot sign TCP (MD5, CONFIG_TCP_MD5SIG): no key can be used")]
    Unsupported,
    /// The kernel takes no more keys.
    #[error(
        "the kernel takes no more keys: raise net.core.optmem_max, or give fewer (the one for {0} was too many)"
    )]
    TooMany(IpNet),
    /// Anything else that the kernel does not like.
    #[error("the kernel does not take the key for {network}: {source}")]
    Refused {
        /// Its network.
        network: IpNet,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The keys of a node, read. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Md5Keys(Arc<[Signed]>);

/// A network whose connections are signed.
#[derive(Debug)]
struct Signed {
    network: IpNet,
    secret: Secret,
}

impl Md5Keys {
    /// Reads files: this may block.
    ///
    /// # Errors
    /// The first that there is.
    pub(super) fn read(keys: &[Md5Key]) -> Result<Md5Keys, Md5Error> {
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|other| other.network == key.network) {
                return Err(Md5Error::Twice(key.network));
            }
        }
        keys.iter().map(Md5Key::read).collect::<Result<Arc<[_]>, _>>().map(Md5Keys)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The networks that there are keys for.
    pub(super) fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().map(|signed| signed.network)
    }

    /// Has a listening socket no longer demand signatures of those of these networks that there are no keys for.
    ///
    /// # Errors
    /// [`Md5Error`].
    pub(super) fn release(
        &self,
        socket: &impl AsFd,
        address: SocketAddr,
        networks: &[IpNet],
    ) -> Result<(), Md5Error> {
        let is_ipv6 = address.is_ipv6();
        for network in networks.iter().filter(|network| is_ipv6 || network.addr().is_ipv4()) {
            if !self.networks().any(|kept| kept == *network) {
                set(socket, is_ipv6, *network, &Secret(Box::default()), *network)?;
            }
        }
        Ok(())
    }

    /// Has a socket demand signatures that listens at `address`, or is about to. Connections that it has accepted keep
    /// their keys.
    ///
    /// # Errors
    /// [`Md5Error`].
    pub(super) fn demand(&self, socket: &impl AsFd, address: SocketAddr) -> Result<(), Md5Error> {
        let is_ipv6 = address.is_ipv6();
        // A socket of IPv4 has no peers of IPv6.
        let possible = self.0.iter().filter(|key| is_ipv6 || key.network.addr().is_ipv4());
        for Signed { network, secret } in possible {
            set(socket, is_ipv6, *network, secret, *network)?;
        }
        Ok(())
    }

    /// Has a socket sign that is about to connect to `remote`, if there is a key for that. Whether there is.
    ///
    /// # Errors
    /// [`Md5Error`].
    pub(super) fn sign(&self, socket: &impl AsFd, remote: SocketAddr) -> Result<bool, Md5Error> {
        let address = remote.ip().to_canonical();
        let Some(Signed { network, secret }) = self.of(address) else { return Ok(false) };
        set(socket, remote.is_ipv6(), IpNet::from(address), secret, *network)?;
        Ok(true)
    }

    /// The key of an address: of the longest network that it is in.
    fn of(&self, address: IpAddr) -> Option<&Signed> {
        let keys = self.0.iter().filter(|key| key.network.contains(&address));
        keys.max_by_key(|key| key.network.prefix_len())
    }
}

/// A key itself.
#[derive(Clone, PartialEq, Eq)]
struct Secret(Box<[u8]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

fn set(
    socket: &impl AsFd,
    is_ipv6: bool,
    addresses: IpNet,
    Secret(key): &Secret,
    network: IpNet,
) -> Result<(), Md5Error> {
    sys::set_md5_key(socket.as_fd(), is_ipv6, addresses, key).map_err(|source| {
        match source.raw_os_error() {
            Some(libc::ENOPROTOOPT | libc::ENOENT) => Md5Error::Unsupported,
            Some(libc::ENOMEM | libc::ENOBUFS) => Md5Error::TooMany(network),
            _ => Md5Error::Refused { network, source },
        }
    })
}

fn read_file(path: &Path) -> Result<Secret, Md5Error> {
    let file = || path.to_owned();
    let unreadable = |source| Md5Error::Unreadable { file: file(), source };
    let opened = File::open(path).map_err(unreadable)?;
    if let Ok(metadata) = opened.metadata()
        && metadata.permissions().mode() & 0o004 != 0
    {
        let file = path.display();
        warn!("all users of this host can read the key file {file}: chmod o= {file}");
    }
    let mut key = Vec::new();
    // With a line end it is at most two bytes longer, and one more is too much.
    let bytes_max = MD5_KEY_BYTES_MAX as u64 + 3;
    opened.take(bytes_max).read_to_end(&mut key).map_err(unreadable)?;
    if key.last() == Some(&b'\n') {
        key.pop();
        if key.last() == Some(&b'\r') {
            key.pop();
        }
    }
    match key.len() {
        0 => Err(Md5Error::Empty { file: file() }),
        1..=MD5_KEY_BYTES_MAX => Ok(Secret(key.into())),
        _ => Err(Md5Error::TooLong { file: file() }),
    }
}

/// Without host bits, and IPv4 in IPv6 dress as IPv4.
fn folded(network: IpNet) -> IpNet {
    let network = network.trunc();
    let IpNet::V6(ipv6) = network else { return network };
    let mapped = ipv6.addr().to_ipv4_mapped().filter(|_| ipv6.prefix_len() >= 96);
    let ipv4 = mapped.and_then(|ipv4| IpNet::new(ipv4.into(), ipv6.prefix_len() - 96).ok());
    ipv4.unwrap_or(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_most_specific_network_counts() {
        let keys = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"];
        let keys: Vec<_> =
            keys.iter().map(|text| Md5Key::from_bytes(net(text), text.as_bytes())).collect();
        let keys = Md5Keys::read(&keys).unwrap();
        for (address, network) in [
            ("10.1.2.3", Some("10.1.0.0/16")),
            ("10.2.0.1", Some("10.0.0.0/8")),
            ("11.0.0.1", Some("0.0.0.0/0")),
            ("2001:db8::1", Some("2001:db8::/32")),
            ("2001:db9::1", None),
        ] {
            let found = keys.of(address.parse().unwrap()).map(|key| key.network);
            assert_eq!(found, network.map(net), "{address}");
        }
    }

    #[test]
    fn keys_are_judged_and_never_shown() {
        let key = |network: &str, bytes: &[u8]| Md5Key::from_bytes(net(network), bytes);
        let error = |keys: &[Md5Key]| Md5Keys::read(keys).unwrap_err().to_string();
        assert!(error(&[key("::/0", b"")]).contains("::/0 has 0 bytes"));
        assert!(error(&[key("::/0", &[7; 81])]).contains("81 bytes"));
        assert!(Md5Keys::read(&[key("::/0", &[7; 80]), key("::1/128", b"k")]).is_ok());
        let twice = [key("10.0.0.1/8", b"one"), key("::ffff:10.0.0.0/104", b"two")];
        assert!(error(&twice).contains("two keys for 10.0.0.0/8"), "{}", error(&twice));
        let secret = key("10.0.0.0/8", b"hunter2");
        let read = Md5Keys::read(std::slice::from_ref(&secret)).unwrap();
        let shown = format!("{secret:?} {read:?}");
        assert!(!shown.contains("hunter") && !shown.contains("104, 117"), "{shown}");
    }

    #[test]
    fn files_have_a_key_and_maybe_a_line_end() {
        let directory = std::env::temp_dir().join(format!("md5-keys-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("key");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_file(&path).map(|Secret(key)| key.to_vec())
        };
        for (bytes, key) in [
            (&b"k"[..], &b"k"[..]),
            (b"key\n", b"key"),
            (b"key\r\n", b"key"),
            (b" k\n\n", b" k\n"),
            (b"\0\xff", b"\0\xff"),
            (&[b'a'; 80], &[b'a'; 80]),
        ] {
            assert_eq!(read(bytes).unwrap(), key);
        }
        assert_eq!(read(&[&[b'a'; 80][..], b"\r\n"].concat()).unwrap().len(), 80);
        let named = format!("{}", path.display());
        for (bytes, words) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (b"\r\n", "is empty"),
            (&[b'a'; 81], "more than the 80 bytes"),
            (&[b'a'; 100_000], "more than the 80 bytes"),
        ] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(&named), "{error}");
            assert!(!error.contains("aaa"), "{error}");
        }
        for path in [directory.join("none"), directory.clone()] {
            let error = read_file(&path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
