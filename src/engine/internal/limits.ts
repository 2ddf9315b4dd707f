/**
 * The bytes of data after which a page ends. Reading a page then holds neither the event loop nor a server for long.
 */
export const maxPageBytes = 1024 * 1024

/** How many records a cleanup removes in one step. Other operations run between the steps. */
export const cleanupBatch = 100

/**
 * For how many seconds a record stays stored after its expiry, for clients whose clocks are behind (promise 4). Without
 * this time, a client whose clock is ahead would remove records that are live for other clients, and the versions of
 * those records would start at 1 again.
 */
export const clockSlackSeconds = 300
