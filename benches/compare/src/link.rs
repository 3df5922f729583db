//! The link between a server and loadgen: loopback, or a veth pair between two network namespaces.
//!
//! Owns the namespaces, from their making to their end, also when a run fails. Must never touch a namespace
//! that it has not made.

use std::ffi::OsStr;
use std::net::Ipv6Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// Ends of the veth pair: addresses that are nobody else's (RFC 4193), in namespaces of their own anyway.
const SERVER_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd6d, 0x6263, 0, 0, 0, 0, 0, 1);
const LOADGEN_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd6d, 0x6263, 0, 0, 0, 0, 0, 2);
/// The device at both ends.
const DEVICE: &str = "veth0";

/// What is between a server and loadgen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkKind {
    /// The loopback device, with an MTU of 65,536.
    Loopback,
    /// A veth pair with an MTU of 1500.
    Veth,
}

impl LinkKind {
    /// Its word on the command line and in the table.
    pub fn name(self) -> &'static str {
        match self {
            LinkKind::Loopback => "loopback",
            LinkKind::Veth => "veth",
        }
    }

    /// The one with this name.
    ///
    /// # Errors
    /// What it may be.
    pub fn named(name: &str) -> Result<LinkKind, String> {
        [LinkKind::Loopback, LinkKind::Veth]
            .into_iter()
            .find(|it| it.name() == name)
            .ok_or_else(|| "expected loopback or veth".to_owned())
    }
}

/// A link that is up, and goes with its owner.
pub struct Link {
    kind: LinkKind,
    namespaces: Option<Namespaces>,
}

impl Link {
    /// Brings it up.
    ///
    /// # Errors
    /// If namespaces cannot be made here; the text says what is missing.
    pub fn up(kind: LinkKind) -> anyhow::Result<Link> {
        let namespaces = match kind {
            LinkKind::Loopback => None,
            LinkKind::Veth => Some(Namespaces::up().context(
                "--link veth needs two network namespaces (root, or CAP_NET_ADMIN with CAP_SYS_ADMIN; and ip from \
                 iproute2): run this as root, or leave --link veth out",
            )?),
        };
        Ok(Link { kind, namespaces })
    }

    /// Which it is.
    pub fn kind(&self) -> LinkKind {
        self.kind
    }

    /// Where loadgen reaches the server.
    pub fn server_address(&self) -> Ipv6Addr {
        match self.kind {
            LinkKind::Loopback => Ipv6Addr::LOCALHOST,
            LinkKind::Veth => SERVER_ADDRESS,
        }
    }

    /// The command that runs a program at the server's end.
    pub fn server_command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command(program.as_ref(), |namespaces| &namespaces.server)
    }

    /// The command that runs a program at loadgen's end.
    pub fn loadgen_command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command(program.as_ref(), |namespaces| &namespaces.loadgen)
    }

    fn command(&self, program: &OsStr, end: impl Fn(&Namespaces) -> &Namespace) -> Command {
        match &self.namespaces {
            None => Command::new(program),
            Some(namespaces) => {
                // It executes the program in its own place: the process stays the same.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &end(namespaces).name]).arg(program);
                command
            }
        }
    }
}

/// Two namespaces with the pair between them.
struct Namespaces {
    server: Namespace,
    loadgen: Namespace,
}

impl Namespaces {
    fn up() -> anyhow::Result<Namespaces> {
        let server = Namespace::add("server")?;
        let loadgen = Namespace::add("loadgen")?;
        ip(&format!(
            "-n {} link add {DEVICE} mtu 1500 type veth peer name {DEVICE} mtu 1500 netns {}",
            server.name, loadgen.name
        ))?;
        for (namespace, address) in [(&server, SERVER_ADDRESS), (&loadgen, LOADGEN_ADDRESS)] {
            let name = &namespace.name;
            // Without duplicate address detection, so that it can be used at once.
            ip(&format!("-n {name} address add {address}/64 dev {DEVICE} nodad"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set {DEVICE} up"))?;
        }
        Ok(Namespaces { server, loadgen })
    }
}

/// A namespace with a name that holds this process's id. Deleted with its owner.
struct Namespace {
    name: String,
}

impl Namespace {
    fn add(end: &str) -> anyhow::Result<Namespace> {
        let name = format!("mbcompare-{}-{end}", std::process::id());
        ip(&format!("netns add {name}"))?;
        Ok(Namespace { name })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns del {}", self.name)) {
            eprintln!("a namespace is left behind: {error:#}");
        }
    }
}

/// Runs `ip ARGUMENTS` (split at spaces).
fn ip(arguments: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    // In a group of its own: a Ctrl-C must not end what sets up or cleans up.
    command.args(arguments.split(' ')).process_group(0);
    let output = command.output().context("ip cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {}", said.trim());
    Ok(())
}

/// Whether a process's namespace has a socket that listens at this port, as `/proc/PID/net/tcp6` tells.
///
/// # Errors
/// If one does, but not at this address.
pub fn listens(table: &str, address: Ipv6Addr, port: u16) -> anyhow::Result<bool> {
    let listening = table.lines().skip(1).filter_map(listener);
    let addresses: Vec<Ipv6Addr> =
        listening.filter(|&(_, found)| found == port).map(|(at, _)| at).collect();
    if addresses.iter().any(|&at| at.is_unspecified() || at == address) {
        return Ok(true);
    }
    if let Some(other) = addresses.first() {
        bail!(
            "the server listens at [{other}]:{port} alone, where loadgen does not reach it: it has to listen at \
             [{{address}}]:{{port}} or [::]:{{port}}"
        );
    }
    Ok(false)
}

/// Address and port of a line, if that socket listens: four words in the machine's byte order, and 0A for
/// LISTEN (proc_pid_net(5)).
fn listener(line: &str) -> Option<(Ipv6Addr, u16)> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    if fields.nth(1)? != "0A" {
        return None;
    }
    let mut bytes = [0; 16];
    for (at, word) in bytes.chunks_exact_mut(4).enumerate() {
        let digits = address.get(8 * at..8 * at + 8)?;
        word.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    Some((bytes.into(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn table() -> String {
        std::fs::read_to_string("/proc/self/net/tcp6").unwrap()
    }

    #[test]
    fn listeners_are_found_and_others_are_not() {
        let any = TcpListener::bind("[::]:0").unwrap();
        let local = TcpListener::bind("[::1]:0").unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let (any_port, local_port) = (port(&any), port(&local));
        for address in [SERVER_ADDRESS, Ipv6Addr::LOCALHOST] {
            assert!(listens(&table(), address, any_port).unwrap());
        }
        assert!(listens(&table(), Ipv6Addr::LOCALHOST, local_port).unwrap());
        let error = listens(&table(), SERVER_ADDRESS, local_port).unwrap_err().to_string();
        assert!(error.contains(&format!("listens at [::1]:{local_port} alone")), "{error}");
        // A connection's own port is no listener's.
        let stream = TcpStream::connect(local.local_addr().unwrap()).unwrap();
        let near_port = stream.local_addr().unwrap().port();
        assert!(!listens(&table(), Ipv6Addr::LOCALHOST, near_port).unwrap());
    }

    #[test]
    fn names() {
        for kind in [LinkKind::Loopback, LinkKind::Veth] {
            assert_eq!(LinkKind::named(kind.name()), Ok(kind));
        }
        assert_eq!(LinkKind::named("lo"), Err("expected loopback or veth".to_owned()));
    }

    #[test]
    fn a_pair_is_there_and_goes() {
        let Ok(link) = Link::up(LinkKind::Veth) else {
            eprintln!("SKIPPED: no namespaces (expected: root, Linux, iproute2)");
            return;
        };
        let listed = || String::from_utf8(Command::new("ip").arg("netns").output().unwrap().stdout);
        let ours = format!("mbcompare-{}-", std::process::id());
        assert_eq!(listed().unwrap().matches(&ours).count(), 2);
        let output = link.loadgen_command("ip").args(["-6", "address"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&LOADGEN_ADDRESS.to_string()) && text.contains("mtu 1500"), "{text}");
        drop(link);
        assert_eq!(listed().unwrap().matches(&ours).count(), 0);
    }
}
