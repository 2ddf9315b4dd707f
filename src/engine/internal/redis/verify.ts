/** Verifies that a Redis server permits the user what the operations need, and accepts writes. */
import * as Effect from "effect/Effect"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import { notApplied } from "../failure.ts"
import { keysOf } from "./layout.ts"
import { script } from "./scripts.ts"
import type { Commands } from "./send.ts"

/** The owner whose keys the script names. No record can be at its empty id. */
const owner = "effect-versioned-store"

/** The commands of the operations with arguments of each, as Lua. */
const commandsInLua = `{
  {'HMGET', key, 'version'}, {'HGET', key, 'expires_at'}, {'HSET', key, 'version', '1'}, {'EXISTS', key}, {'DEL', key},
  {'EXPIREAT', key, '1'}, {'PERSIST', key}, {'SET', key, ''}, {'ZADD', index, '0', 'id'}, {'ZREM', index, 'id'},
  {'ZRANGE', index, '-', '+', 'BYLEX'}, {'ZSCORE', expiry, 'id'}, {'ZCARD', index}, {'TIME'}, {'SCAN', '0'}
}`

/**
 * Returns the commands that the server does not know, and those that the user may not run on the keys. Since 7.0, a
 * script can ask for that. Then changes a member that no index has, which changes nothing. A server that refuses writes
 * refuses that too, and so does one that has used up its memory, which would still delete keys.
 */
const verifyScript = script<readonly [unknown: ReadonlyArray<string>, denied: ReadonlyArray<string>]>(`
  local key, index, expiry = KEYS[1], KEYS[2], KEYS[3]
  local unknown, denied = {}, {}
  if redis.acl_check_cmd then
    for _, command in ipairs(${commandsInLua}) do
      local known, permitted = pcall(redis.acl_check_cmd, unpack(command))
      if not known then
        unknown[#unknown + 1] = command[1]
      elseif not permitted then
        denied[#denied + 1] = command[1]
      end
    end
  end
  if #unknown + #denied == 0 then redis.call('ZADD', index, 'XX', '0', '') end
  return {unknown, denied}
`)

/** What the user needs, in the words of Redis's own ACL rules. */
const rulesFor = (keyPrefix: string, commands: ReadonlyArray<string>): string =>
  [`~${keyPrefix}:*`, ...commands.map((command) => `+${command.toLowerCase()}`)].join(" ")

const switchOff = "If the user is confined to some owners or to reads, switch verify off"

/** Adds to a failure what the user needs, if the user may not run the script at all, or not on its keys. */
const withAdvice = (error: Backend, keyPrefix: string): Backend => {
  const { cause, description, _tag: reason } = error.reason
  if (!description.includes("NOPERM")) return error
  const rules = rulesFor(keyPrefix, ["EVALSHA", "EVAL"])
  return makeBackend({
    ...notApplied(reason, `${description}. Grant it ${rules} by ACL SETUSER. ${switchOff}`),
    cause
  })
}

/** Fails if the server would refuse the operations. */
export const verify = (commands: Commands, keyPrefix: string): Effect.Effect<void, Backend> => {
  const { expiry, index, record } = keysOf(keyPrefix, owner)
  return commands.run(verifyScript, [record, index, expiry], []).pipe(
    Effect.mapError((error) => withAdvice(error, keyPrefix)),
    Effect.flatMap(([unknown, denied]) => {
      if (unknown.length > 0) {
        const description = `Redis does not know ${unknown.join(", ")}: 6.2 or newer is needed, with no command renamed`
        return Effect.fail(makeBackend(notApplied("Misconfigured", description)))
      }
      if (denied.length === 0) return Effect.void
      const description =
        `The Redis user has no permission for ${denied.join(", ")} on the keys ${keyPrefix}:*. Grant it ` +
        `${rulesFor(keyPrefix, denied)} by ACL SETUSER. ${switchOff}`
      return Effect.fail(makeBackend(notApplied("Unauthorized", description)))
    })
  )
}
