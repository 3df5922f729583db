//! The place in the file system at which two servers meet.
//!
//! Owns its socket's file. Must never remove or replace what is no socket, nor leave a moment without one.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::failure::Failure;

/// Who waits to be heard there.
const BACKLOG: i32 = 16;

/// Connects to who listens there; None if nobody does.
///
/// # Errors
/// If there is something else, or it may not be used.
pub(super) fn reach(path: &Path) -> Result<Option<OwnedFd>, Failure> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::system("the path")(error)),
        Ok(file) if !file.file_type().is_socket() => {
            let error = io::Error::other("there is a file that is no socket");
            return Err(Failure::system("the path")(error));
        }
        Ok(_) => {}
    }
    let socket = socket()?;
    match connect(&socket, &address(path)?) {
        Ok(()) => Ok(Some(socket)),
        // It was left behind, or is just being replaced.
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(None),
        Err(error) => Err(Failure::system("connecting to who listens there")(error)),
    }
}

/// Listens there from now on, in place of who did.
///
/// # Errors
/// The kernel's.
pub(super) fn listen_at(path: &Path) -> Result<OwnedFd, Failure> {
    let socket = socket()?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = Path::new(&name);
    // Of a process that had the same number.
    let _ = fs::remove_file(beside);
    bind(&socket, &address(beside)?).map_err(Failure::system("making a socket beside the path"))?;
    // Nobody can connect before it listens.
    let result = fs::set_permissions(beside, Permissions::from_mode(0o600))
        .and_then(|()| Ok(listen(&socket, BACKLOG)?))
        .and_then(|()| fs::rename(beside, path));
    result.map(|()| socket).map_err(|error| {
        let _ = fs::remove_file(beside);
        Failure::system("putting a socket there")(error)
    })
}

/// One that keeps packets apart.
fn socket() -> Result<OwnedFd, Failure> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(Failure::system("a socket"))
}

fn address(path: &Path) -> Result<SocketAddrUnix, Failure> {
    SocketAddrUnix::new(path).map_err(Failure::system("the path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_last_is_reached_and_files_are_left_alone() {
        let folder = std::env::temp_dir().join(format!("metalbond-path-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("socket");
        assert!(reach(&path).unwrap().is_none());
        let first = listen_at(&path).unwrap();
        assert!(reach(&path).unwrap().is_some());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = listen_at(&path).unwrap();
        drop(first);
        assert!(reach(&path).unwrap().is_some());
        drop(second);
        assert!(reach(&path).unwrap().is_none(), "nobody listens, though the file is there");
        drop(listen_at(&path).unwrap());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let file = folder.join("file");
        fs::write(&file, "precious").unwrap();
        assert!(reach(&file).unwrap_err().to_string().contains("no socket"));
        assert!(reach(&folder).is_err());
        assert!(listen_at(&folder.join("x".repeat(120))).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
