//! A request as it stands in the bytes that a client sent: nothing is copied, the arguments are ranges of the frame.

/// Where an argument stands, counted from the frame's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// One whole request. Inline commands are rendered to RESP before they become one.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    buffer: &'a [u8],
    args: &'a [Span],
}

impl<'a> Request<'a> {
    /// `args` holds at least the command's name; its spans lie within `buffer`.
    pub fn new(buffer: &'a [u8], args: &'a [Span]) -> Self {
        debug_assert!(!args.is_empty());
        Self { buffer, args }
    }

    /// The frame's bytes, as they can be sent on.
    pub fn raw(&self) -> &'a [u8] {
        self.buffer
    }

    /// How many arguments, the name included.
    #[allow(clippy::len_without_is_empty, reason = "a request has a name, so it is never empty")]
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// Panics when there is no argument `i`, as a slice does.
    pub fn arg(&self, i: usize) -> &'a [u8] {
        let span = self.args[i];
        &self.buffer[span.start as usize..span.end as usize]
    }

    /// The command's name, as it was sent.
    pub fn name(&self) -> &'a [u8] {
        self.arg(0)
    }

    /// All arguments, the name first.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let buffer = self.buffer;
        self.args
            .iter()
            .map(move |span| &buffer[span.start as usize..span.end as usize])
    }
}

/// A request that owns its bytes: inline commands, and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedRequest {
    buffer: Vec<u8>,
    args: Vec<Span>,
}

impl OwnedRequest {
    pub fn from_words<W: AsRef<[u8]>>(words: &[W]) -> Self {
        let mut request = Self::default();
        request.buffer.extend(format!("*{}\r\n", words.len()).bytes());
        for word in words {
            let word = word.as_ref();
            request.buffer.extend(format!("${}\r\n", word.len()).bytes());
            let start = request.buffer.len() as u32;
            request.buffer.extend_from_slice(word);
            request.args.push(Span {
                start,
                end: request.buffer.len() as u32,
            });
            request.buffer.extend_from_slice(b"\r\n");
        }
        request
    }

    pub fn as_request(&self) -> Request<'_> {
        Request::new(&self.buffer, &self.args)
    }
}
