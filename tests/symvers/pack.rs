//! Kernel images put together as Kbuild does it, around what the real programs packed.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};

use zfs_prefix::compress::Compression;

/// `bytes` through a program that packs standard input to standard output.
pub fn with(command: &[&str], bytes: &[u8]) -> Vec<u8> {
    of(command, |stdin| stdin.write_all(bytes))
}

/// The same for so many zeros, a whole number of MiB.
pub fn zeros(command: &[&str], length: usize) -> Vec<u8> {
    let some = vec![0; 1 << 20];
    of(command, |stdin| (0..length / some.len()).try_for_each(|_| stdin.write_all(&some)))
}

fn of(
    command: &[&str],
    write: impl FnOnce(&mut ChildStdin) -> std::io::Result<()> + Send,
) -> Vec<u8> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}: `make setup`"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || write(&mut stdin).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success() && !output.stdout.is_empty(), "{command:?}");
    output.stdout
}

/// The bzImage `shipped` with another payload: what gzip does not have at its end already, the
/// unpacked size, is appended (scripts/Makefile.lib, `size_append`).
pub fn bzimage(shipped: &[u8], packed: &[u8], how: Compression) -> Vec<u8> {
    let u32_at = |at: usize| u32::from_le_bytes(shipped[at..at + 4].try_into().unwrap());
    let begin = (usize::from(shipped[0x1f1]) + 1) * 512 + u32_at(0x248) as usize;
    let mut image = [&shipped[..begin], packed].concat();
    if how != Compression::Gzip {
        image.extend(0x0300_0000_u32.to_le_bytes());
    }
    let length = u32::try_from(image.len() - begin).unwrap();
    image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    image.extend([0; 4096]);
    image
}

/// An EFI zboot image: its size does not count the appended unpacked size.
pub fn zboot(packed: &[u8], how: Compression) -> Vec<u8> {
    let mut image = b"MZ\0\0zimg".to_vec();
    let begin = 0x1000_u32;
    image.extend(begin.to_le_bytes());
    image.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
    image.extend([0; 8]);
    image.extend(how.to_string().as_bytes());
    image.resize(begin as usize, 0);
    image.extend(packed);
    image.extend([0xff; 4096]);
    image
}
