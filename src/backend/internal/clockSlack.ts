/**
 * For how many seconds after its expiry a record stays stored, for clients whose clocks are behind (promise 4). Without
 * this time, a client whose clock is ahead would remove records that are live for others, and their versions would start
 * at 1 again.
 */
export const clockSlackSeconds = 300
