//! Support for tests: producers interrupted in the middle of an append, for simulated histories without threads.

use crate::format::encoded_bytes;
use crate::shard::append::AppendMode;
use crate::shard::engine::{Engine, Placed, Refused};
use crate::write::{Durability, Priority};

impl Engine {
    /// Between a producer's opening of a block and its claim, somebody else closes the block; false if none could
    /// be opened.
    pub(crate) fn leave_void(&self) -> bool {
        let blocks_max = self.blocks_max(Priority::High);
        if self.pool.in_use() > blocks_max || !self.pool.is_closed() {
            return false;
        }
        let opened = self.open_block(encoded_bytes(1), blocks_max).is_ok();
        self.pool.close_any();
        opened
    }

    /// Accepts a record that fits into a block, of a producer that is interrupted between reservation and copy:
    /// `meanwhile` runs there. It must not wait for anything.
    pub(crate) fn put_interrupted(
        &self,
        payload: &[u8],
        durability: Durability,
        meanwhile: impl FnOnce(),
    ) -> Result<Placed, Refused> {
        let mut meanwhile = Some(meanwhile);
        let parts = std::iter::once(payload).inspect(|_| {
            if let Some(run) = meanwhile.take() {
                run();
            }
        });
        self.put_body(b"", payload.len(), parts, AppendMode::without_lead(Priority::Normal, durability))
    }
}
