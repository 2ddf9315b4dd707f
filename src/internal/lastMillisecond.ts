/** The last that a date can have (ECMAScript's "Time Values and Time Range"). */
export const lastMillisecond = 8.64e15
