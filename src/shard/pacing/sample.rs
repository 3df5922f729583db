//! How a TCP connection stands.
//!
//! Owns the words for what the kernel tells. Must never be filled in the core.

/// What TCP_INFO tells about a connection (`struct tcp_info`, linux/tcp.h), and SIOCOUTQ, which is asked first.
#[derive(Clone, Copy, Debug)]
pub struct TcpSample {
    /// `tcpi_snd_mss`: bytes of the largest segment; 0 if nothing is known.
    pub snd_mss: u32,
    /// SIOCOUTQ: bytes that the kernel has and that are not acknowledged.
    pub queued_bytes: u32,
    /// `tcpi_snd_cwnd`: segments that may be under way.
    pub snd_cwnd: u32,
    /// `tcpi_unacked`: segments sent and not acknowledged.
    pub unacked_segments: u32,
    /// `tcpi_bytes_acked`: bytes that were acknowledged since the connection began.
    pub bytes_acked: u64,
    /// `tcpi_bytes_received`: bytes that came since the connection began.
    pub bytes_received: u64,
    /// `tcpi_data_segs_in`: segments with bytes that came, those that came before or out of order too.
    pub data_segments_received: u32,
    /// `tcpi_total_retrans`: segments sent again.
    pub total_retrans: u32,
    /// `tcpi_dsack_dups`: duplicates that the peer reported.
    pub dsack_dups: u32,
    /// `tcpi_delivered_ce`: segments that arrived marked "congestion experienced".
    pub delivered_ce: u32,
    /// `tcpi_reord_seen`: times at which segments of ours were seen to arrive out of order.
    pub reord_seen: u32,
    /// `tcpi_rcv_ooopack`: segments of the peer that came out of order.
    pub rcv_ooopack: u32,
    /// `tcpi_min_rtt`, in microseconds.
    pub min_rtt_us: u32,
    /// `tcpi_rtt`, the smoothed one, in microseconds.
    pub rtt_us: u32,
    /// `tcpi_snd_wnd`: the peer's window in bytes; `u32::MAX` if it is not known.
    pub snd_wnd: u32,
}

impl TcpSample {
    /// Whether anything is known.
    pub(crate) fn is_known(&self) -> bool {
        self.snd_mss > 0
    }
}

impl Default for TcpSample {
    /// Nothing is known.
    fn default() -> TcpSample {
        TcpSample {
            snd_mss: 0,
            queued_bytes: 0,
            snd_cwnd: 0,
            unacked_segments: 0,
            bytes_acked: 0,
            bytes_received: 0,
            data_segments_received: 0,
            total_retrans: 0,
            dsack_dups: 0,
            delivered_ce: 0,
            reord_seen: 0,
            rcv_ooopack: 0,
            min_rtt_us: 0,
            rtt_us: 0,
            snd_wnd: u32::MAX,
        }
    }
}
