/** The bytes of data after which a page ends. Reading a page then holds neither the event loop nor a server for long. */
export const maxPageBytes = 1024 * 1024

/** How many records a cleanup removes at a time. Others run in between. */
export const cleanupBatch = 100

/**
 * For how many seconds after its expiry a record stays stored, for clients whose clocks are behind (promise 4). Without
 * this time, a client whose clock is ahead would remove records that are live for others, and their versions would start
 * at 1 again.
 */
export const clockSlackSeconds = 300
