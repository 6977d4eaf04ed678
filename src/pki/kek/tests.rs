use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE};

use super::*;
use crate::domain::hex;

const KEY: [u8; 32] = [0xfb; 32];

fn from_file(content: &[u8]) -> Result<Zeroizing<[u8; 32]>, KekError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, content).unwrap();
    load(&KeySource::File(path), Path::new("/nonexistent"), StoreBackend::Embedded)
}

#[test]
fn understands_raw_hex_and_base64_in_a_file() {
    let hex = hex(&KEY);
    for content in [
        KEY.to_vec(),
        hex.clone().into_bytes(),
        format!("{}\r\n", hex.to_uppercase()).into_bytes(),
        format!("{}\n", BASE64_STANDARD.encode(KEY)).into_bytes(),
        BASE64_STANDARD_NO_PAD.encode(KEY).into_bytes(),
        BASE64_URL_SAFE.encode(KEY).into_bytes(),
    ] {
        assert_eq!(*from_file(&content).unwrap(), KEY);
    }
    let text = *b"0123456789abcdef0123456789abcdef";
    assert_eq!(*from_file(&text).unwrap(), text, "32 bytes are 32 bytes, if with a warning");
}

#[test]
fn refuses_what_is_no_key_without_repeating_it() {
    let short = hex(&KEY[..31]);
    for content in [
        &b""[..],
        b"hunter2",
        &[0; 31],
        &[0; 33],
        short.as_bytes(),
        format!("{}\n", BASE64_STANDARD.encode([1; 24])).as_bytes(),
        BASE64_STANDARD.encode([1; 33]).as_bytes(),
        &[b'g'; 64],
        &[b'a'; 5000],
    ] {
        let text = from_file(content).unwrap_err().to_string();
        assert!(text.contains("openssl rand -hex 32"), "{text}");
        assert!(!text.contains("hunter2"));
    }
}

#[test]
fn reads_what_operators_mount_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("..data"), dir.path().join("key"));
    fs::write(&file, hex(&KEY)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    symlink(&file, &link).unwrap();
    assert_eq!(*load(&KeySource::File(link), dir.path(), StoreBackend::Memory).unwrap(), KEY);
    let missing = load(&KeySource::File(dir.path().join("none")), dir.path(), StoreBackend::Memory);
    assert!(matches!(missing, Err(KekError::Unreadable { .. })));
}

#[test]
fn names_a_variable_that_is_not_set_or_no_key() {
    let text = load(&KeySource::Env("EGRET_TEST_NO_SUCH".into()), Path::new("/"), StoreBackend::Memory);
    assert!(text.unwrap_err().to_string().contains("EGRET_TEST_NO_SUCH"));
    let text = load(&KeySource::Env("PATH".into()), Path::new("/"), StoreBackend::Memory).unwrap_err().to_string();
    assert!(text.contains("PATH") && !text.contains("/bin"), "{text}");
}

#[test]
fn makes_one_on_first_start_and_finds_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let first = load(&KeySource::Generated, &data, StoreBackend::Embedded).unwrap();
    assert_eq!(*load(&KeySource::Generated, &data, StoreBackend::Embedded).unwrap(), *first);
    let path = data.join(KEY_FILE);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", hex(&*first)));
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "nothing else is left behind");
    assert_ne!(*load(&KeySource::Generated, &dir.path().join("b"), StoreBackend::Embedded).unwrap(), *first);
}

#[test]
fn makes_no_new_key_for_an_old_store() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    load(&KeySource::Generated, &data, StoreBackend::Embedded).unwrap();
    fs::write(data.join("egret.db"), "x").unwrap();
    load(&KeySource::Generated, &data, StoreBackend::Embedded).unwrap();
    fs::remove_file(data.join(KEY_FILE)).unwrap();
    let text = load(&KeySource::Generated, &data, StoreBackend::Embedded).unwrap_err().to_string();
    assert!(text.contains("put that file back"), "{text}");
    assert!(!data.join(KEY_FILE).exists());
}

#[test]
fn refuses_a_key_that_others_may_read_or_that_is_a_link_or_cut() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    load(&KeySource::Generated, &data, StoreBackend::Embedded).unwrap();
    let path = data.join(KEY_FILE);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let text = load(&KeySource::Generated, &data, StoreBackend::Embedded).unwrap_err().to_string();
    assert!(text.contains(&format!("chmod 600 {}", path.display())), "{text}");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "00").unwrap();
    assert!(matches!(load(&KeySource::Generated, &data, StoreBackend::Embedded), Err(KekError::Malformed { .. })));
    fs::rename(&path, data.join("elsewhere")).unwrap();
    symlink(data.join("elsewhere"), &path).unwrap();
    let linked = load(&KeySource::Generated, &data, StoreBackend::Embedded);
    assert!(matches!(linked, Err(KekError::File(FileError::Link(_)))));
}

#[test]
fn needs_no_writable_path_in_memory() {
    let nowhere = Path::new("/proc/no-such-folder");
    let one = load(&KeySource::Generated, nowhere, StoreBackend::Memory).unwrap();
    assert_ne!(*one, *load(&KeySource::Generated, nowhere, StoreBackend::Memory).unwrap());
}

#[test]
fn two_that_start_at_once_agree_on_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    files::private_folder(&data).unwrap();
    let keys: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| load(&KeySource::Generated, &data, StoreBackend::Embedded).unwrap()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|k| **k == *keys[0]));
}

#[test]
fn finds_the_key_of_a_store_and_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let missing = existing(&KeySource::Generated, &data_dir).unwrap_err();
    assert!(matches!(missing, KekError::KeyMissing { .. }), "{missing}");
    assert!(!data_dir.exists(), "nothing is made");
    let made = load(&KeySource::Generated, &data_dir, StoreBackend::Embedded).unwrap();
    assert_eq!(existing(&KeySource::Generated, &data_dir).unwrap(), made);
}
