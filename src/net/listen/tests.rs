use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use super::*;

fn bind(path: &Path, mode: u32) -> Result<Listening, ListenError> {
    Listening::bind(&Endpoint::Unix(path.to_owned()), mode, false)
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_socket_has_its_mode_whatever_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    for want in [0o600, 0o660, 0o666, 0o777] {
        let path = folder.path().join(format!("{want:o}.sock"));
        let listening = bind(&path, want).unwrap();
        assert_eq!(mode(&path), want);
        assert_eq!(listening.endpoint().to_string(), format!("unix:{}", path.display()));
    }
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egret.sock");
    drop(UnixListener::bind(&path).unwrap());
    let listening = bind(&path, 0o600).unwrap();
    assert!(matches!(bind(&path, 0o600), Err(ListenError::Alive)));
    UnixStream::connect(&path).expect("the first still listens");
    // A full queue does not make it look dead, and nobody waits for it.
    drop(listening);
    assert!(path.exists(), "dropped without a remover: as after a kill");
    let _reborn = bind(&path, 0o600).unwrap();
}

#[test]
fn a_socket_whose_queue_is_full_is_alive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egret.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..64 {
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        if client.connect(&socket2::SockAddr::unix(&path).unwrap()).is_err() {
            break;
        }
        waiting.push(client);
    }
    assert!(matches!(bind(&path, 0o600), Err(ListenError::Alive)));
}

#[test]
fn what_is_no_listening_socket_of_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let (below, datagram) = (folder.path().join("below"), folder.path().join("datagram"));
    std::fs::create_dir(&below).unwrap();
    let _datagram = UnixDatagram::bind(&datagram).unwrap();
    for path in [&file, &link, &below] {
        assert!(matches!(bind(path, 0o600), Err(ListenError::NotASocket)), "{path:?}");
    }
    assert!(matches!(bind(&datagram, 0o600), Err(ListenError::Unknown(_))));
    assert_eq!(std::fs::read_to_string(&link).unwrap(), "precious");
    assert!(below.exists() && datagram.exists());
    assert!(matches!(bind(&folder.path().join("none/egret.sock"), 0o600), Err(ListenError::NoFolder)));
}

#[tokio::test]
async fn the_file_goes_with_the_socket_unless_it_is_anothers_by_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egret.sock");
    let listening = bind(&path, 0o600).unwrap();
    let remover = listening.remover();
    let accepting = listening.accepting().unwrap();
    let (_client, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), accepting.accept());
    let accepted = accepted.unwrap();
    let uid = std::fs::metadata(folder.path()).unwrap().uid();
    assert_eq!(accepted.peer, Peer::Unix(Some(uid)));
    assert!(accepted.ends.is_none());
    drop(accepting);
    assert!(!path.exists());
    // Another has taken the name since.
    let other = UnixListener::bind(&path).unwrap();
    drop(remover);
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).unwrap();

    let listening = bind(&path, 0o600).unwrap();
    let remover = listening.remover();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop((remover, listening));
    assert!(path.exists(), "removed although another listens there");
}

#[test]
fn of_many_that_start_at_once_one_listens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egret.sock");
    for _ in 0..20 {
        drop(UnixListener::bind(&path));
        let all: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| bind(&path, 0o600))).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert_eq!(all.iter().filter(|started| started.is_ok()).count(), 1);
        UnixStream::connect(&path).expect("the one that says so listens at the path");
        drop(all);
    }
}

#[test]
fn tcp_of_both_families_can_share_a_port() {
    let six = Listening::bind(&"[::]:0".parse().unwrap(), 0, true).unwrap();
    let port = six.endpoint().tcp().unwrap().port();
    let four = Listening::bind(&Endpoint::Tcp(SocketAddr::from(([0, 0, 0, 0], port))), 0, false);
    assert!(four.is_ok(), "{four:?}");
    let taken = Listening::bind(six.endpoint(), 0, true);
    assert!(matches!(taken, Err(ListenError::Taken)), "{taken:?}");
}

/// So many clients wait in the queue; what closing the socket gives back.
fn closed(passed: bool) -> (Vec<Accepted>, std::net::TcpListener) {
    let kept = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listening = if passed {
        Passed::of(vec![("dev", kept.try_clone().unwrap())]).named("dev").unwrap()
    } else {
        Listening::bind(&Endpoint::Tcp("127.0.0.1:0".parse().unwrap()), 0, false).unwrap()
    };
    let address = listening.endpoint().tcp().unwrap();
    let accepting = listening.accepting().unwrap();
    let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let accepted = accepting.close().collect();
    drop(clients);
    (accepted, kept)
}

#[tokio::test]
async fn who_waits_when_a_socket_is_closed_is_not_lost() {
    let (accepted, _) = closed(false);
    assert_eq!(accepted.len(), 3);
    assert!(accepted.iter().all(|client| client.peer.is_local() && client.ends.is_some()));
}

#[tokio::test]
async fn who_waits_at_a_socket_that_was_handed_over_is_for_the_next_process() {
    let (accepted, kept) = closed(true);
    assert_eq!(accepted.len(), 0);
    kept.set_nonblocking(true).unwrap();
    assert_eq!((0..9).filter_map(|_| kept.accept().ok()).count(), 3);
}

#[tokio::test]
async fn who_waits_at_a_unix_socket_is_not_lost_and_nobody_comes_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egret.sock");
    let accepting = bind(&path, 0o600).unwrap().accepting().unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    let mut closing = accepting.close();
    assert!(!path.exists(), "whoever comes now is told at once, and not by a reset");
    assert!(closing.next().is_some() && closing.next().is_none());
}

#[test]
fn sockets_are_found_by_name_and_by_address_and_each_is_given_once() {
    let [one, two] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let at: Endpoint = two.local_addr().unwrap().into();
    let mut passed = Passed::of(vec![("dev", one), ("egret.socket", two)]);
    assert!(passed.named("prod").is_none() && passed.named("dev").is_some() && passed.named("dev").is_none());
    assert_eq!(passed.left().collect::<Vec<_>>(), [("egret.socket", &at)]);
    assert!(passed.at(&at).is_some() && passed.at(&at).is_none() && passed.left().next().is_none());
}
