//! A byte and descriptors, from one process to another over a local socket (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors that one byte can carry (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 253;

/// Sends a byte, and descriptors with it.
///
/// # Errors
/// As `sendmsg(2)`.
///
/// # Panics
/// If there are more than [`FDS_MAX`].
pub fn send(socket: BorrowedFd<'_>, byte: u8, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)), "too many descriptors");
    }
    sendmsg(socket, &[IoSlice::new(&[byte])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a byte, and the descriptors that came with it; `None` at the end.
///
/// # Errors
/// As `recvmsg(2)`.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let received = recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes == 1).then(|| (byte[0], fds)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_stay_with_their_byte() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(ours.as_fd(), b'a', &[]).unwrap();
        send(ours.as_fd(), b'b', &[writer.as_fd()]).unwrap();
        send(ours.as_fd(), b'c', &[]).unwrap();
        drop((ours, writer));
        let (byte, fds) = receive(theirs.as_fd()).unwrap().unwrap();
        assert_eq!((byte, fds.len()), (b'a', 0));
        let (byte, mut fds) = receive(theirs.as_fd()).unwrap().unwrap();
        assert_eq!((byte, fds.len()), (b'b', 1));
        File::from(fds.remove(0)).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(receive(theirs.as_fd()).unwrap().unwrap().0, b'c');
        assert!(receive(theirs.as_fd()).unwrap().is_none());
    }
}
