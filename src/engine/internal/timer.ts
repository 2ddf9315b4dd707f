/** The longest time, in milliseconds, for which a timer of JavaScript can wait. It fires at once if it is to wait longer. */
const maxTimerMillis = 2 ** 31 - 1

/**
 * Calls a function later, or never if that is more than 24 days away. Returns the function that clears the timer.
 *
 * A request has one timer in place of `Effect.timeoutOrElse`, which runs two fibers for each request. It runs by the
 * time of the machine and not by Effect's Clock, as the network does.
 */
export const startTimer = (millis: number, onTimeout: () => void): (() => void) => {
  if (millis > maxTimerMillis) return () => {}
  const timer = setTimeout(onTimeout, millis)
  return () => clearTimeout(timer)
}
