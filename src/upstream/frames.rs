//! What an HTTP/2 origin says about its connection, read off the bytes that pass: how many streams it takes, and that
//! it wants no more of them (RFC 9113 sections 6.5.2 and 6.8); and how many heads it sends.
//!
//! hyper queues requests without bound, and one that cannot be opened holds up all behind it; so the pool hands out
//! streams itself, within the origin's own limit. This follows the frames' headers, looks into SETTINGS only, and
//! judges nothing: what is malformed is hyper's to refuse.

const HEADER: usize = 9;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const ACK: u8 = 0x1;
const SETTING: usize = 6;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;

/// Something that the pool wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// A SETTINGS frame is complete; the limit that stands in it, if one does.
    Settings(Option<u32>),
    /// No stream is to be opened any more.
    GoAway,
    /// A head begins: an interim one, that of an answer, or trailers.
    Head,
}

/// Where in the stream of frames we are.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; HEADER],
    /// Of the header, or of the setting that is being read.
    have: usize,
    /// Of the payload; meaningless while the header is read.
    left: usize,
    within: Option<Within>,
    limit: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Settings,
    Other,
}

impl Frames {
    /// Follows these bytes; `say` is told what they say.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut say: impl FnMut(Said)) {
        while !bytes.is_empty() {
            match self.within {
                None => {
                    let taken = bytes.len().min(HEADER - self.have);
                    self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
                    self.have += taken;
                    bytes = &bytes[taken..];
                    if self.have == HEADER {
                        self.begin(&mut say);
                    }
                }
                Some(Within::Other) => {
                    let taken = bytes.len().min(self.left);
                    bytes = &bytes[taken..];
                    self.advance(taken, &mut say);
                }
                Some(Within::Settings) => {
                    // The header's space is free again.
                    self.header[self.have] = bytes[0];
                    bytes = &bytes[1..];
                    self.have += 1;
                    if self.have == SETTING {
                        self.have = 0;
                        let id = u16::from_be_bytes([self.header[0], self.header[1]]);
                        if id == MAX_CONCURRENT_STREAMS {
                            let [_, _, a, b, c, d, ..] = self.header;
                            self.limit = Some(u32::from_be_bytes([a, b, c, d]));
                        }
                    }
                    self.advance(1, &mut say);
                }
            }
        }
    }

    fn begin(&mut self, say: &mut impl FnMut(Said)) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        self.have = 0;
        self.limit = None;
        self.within = Some(if kind == SETTINGS && flags & ACK == 0 { Within::Settings } else { Within::Other });
        match kind {
            GOAWAY => say(Said::GoAway),
            HEADERS => say(Said::Head),
            _ => {}
        }
        self.advance(0, say);
    }

    fn advance(&mut self, taken: usize, say: &mut impl FnMut(Said)) {
        self.left -= taken;
        if self.left == 0 {
            if self.within == Some(Within::Settings) {
                say(Said::Settings(self.limit));
            }
            self.within = None;
            self.have = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
        bytes.extend_from_slice(payload);
        bytes
    }

    fn setting(id: u16, value: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
    }

    fn said(chunks: &[&[u8]]) -> Vec<Said> {
        let mut frames = Frames::default();
        let mut said = Vec::new();
        for chunk in chunks {
            frames.feed(chunk, |s| said.push(s));
        }
        said
    }

    fn stream() -> Vec<u8> {
        let settings = [setting(1, 7), setting(3, 4), setting(4, 65_535)].concat();
        [
            frame(SETTINGS, 0, &settings),
            frame(SETTINGS, ACK, &[]),
            frame(HEADERS, 4, &[0x88]),
            // The same bytes inside DATA mean nothing.
            frame(0, 0, &frame(GOAWAY, 0, &[0; 8])),
            frame(SETTINGS, 0, &[]),
            frame(GOAWAY, 0, &[0; 8]),
            frame(SETTINGS, 0, &setting(3, 0xffff_ffff)),
        ]
        .concat()
    }

    const EXPECTED: [Said; 5] =
        [Said::Settings(Some(4)), Said::Head, Said::Settings(None), Said::GoAway, Said::Settings(Some(0xffff_ffff))];

    #[test]
    fn reads_limits_and_goaway_off_a_stream_of_frames() {
        assert_eq!(said(&[&stream()]), EXPECTED);
    }

    #[test]
    fn reads_the_same_however_the_bytes_are_cut() {
        let stream = stream();
        assert_eq!(said(&stream.iter().map(std::slice::from_ref).collect::<Vec<_>>()), EXPECTED);
        for at in 0..stream.len() {
            let (first, second) = stream.split_at(at);
            assert_eq!(said(&[first, second]), EXPECTED, "cut at {at}");
        }
    }

    #[test]
    fn survives_settings_of_an_odd_length() {
        assert_eq!(said(&[&frame(SETTINGS, 0, &[0, 3, 0]), &stream()])[1..], EXPECTED);
    }
}
