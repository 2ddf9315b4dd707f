/** The Lua scripts that Redis runs, each as one atomic step. */
import * as Redis from "effect/persistence/Redis"
import { maxVersion } from "../../../StorageBackend.ts"
import { cleanupBatch, clockSlackSeconds, maxPageBytes } from "../limits.ts"
import { fields } from "./layout.ts"

/**
 * How ids are published. `SPUBLISH` sends them to the replicas of one shard alone. In a Redis Cluster, `PUBLISH` sends
 * them to all nodes, and made a write take a quarter longer.
 */
export type Publish = "PUBLISH" | "SPUBLISH"

/** What stands between the ids in a message. No id has it. */
export const idSeparator = "\0"

export type Script<Reply> = ReturnType<typeof script<Reply>>

/** A script whose arguments follow its keys. */
export const script = <Reply>(lua: string) =>
  Redis.script((keys: ReadonlyArray<string>, args: ReadonlyArray<string | number>) => [...keys, ...args], {
    lua,
    numberOfKeys: (keys) => keys.length
  }).withReturnType<Reply>()

const hashFields = fields.map((field) => `'${field}'`).join(", ")

/**
 * Reads the stored record. Says whether it is sound, live and as expected. A damaged record is not sound, and can only
 * be removed.
 */
const readRecord = `
  local key, index, expiry = KEYS[1], KEYS[2], KEYS[3]
  local id, now, expected, expected_version, expected_match = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
  local version, data, write_id, expires_at = unpack(redis.call('HMGET', key, ${hashFields}))
  local stored = version or data or write_id or expires_at
  if write_id == '' then write_id = false end
  if expires_at == '' then expires_at = false end
  local sound = string.find(version or '', '^[1-9]%d*$') and (not expires_at or string.find(expires_at, '^%-?%d+$'))
  local live = stored and not (sound and expires_at and tonumber(expires_at) <= now)
  local function as_expected()
    if expected == 'nothing' then return not live end
    if expected == 'live' then return live end
    if stored and not sound then return false end
    if expected == 'anything' then return true end
    if not live or version ~= expected_version then return false end
    if expected == 'write' then return write_id == expected_match end
    if expected == 'data' then return not write_id and data == expected_match end
    return true
  end
  local function refused()
    if not stored or expected == 'live' then return {} end
    return {version or '', data or '', write_id or '', expires_at or ''}
  end
`

/**
 * Returns only the new version if it wrote. Otherwise returns the stored record, if there is one. Numbers are exact up
 * to 2^53. If a script fails, Redis does not undo its earlier commands. So the script writes the hash after the sorted
 * sets. Only the hash's time to live is set later, and that command may fail.
 */
const makeWriteScript = (publish: Publish) =>
  script<ReadonlyArray<string>>(`
  ${readRecord}
  local new_data, new_write_id, new_expires_at, ttl, increment = ARGV[6], ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
  local number = tonumber(version or 0) or 0
  if number > ${maxVersion} - increment or not as_expected() then return refused() end
  local next = string.format('%.0f', number + increment)
  redis.call('ZADD', index, 0, id)
  if ttl == '' then redis.call('ZREM', expiry, id) else redis.call('ZADD', expiry, new_expires_at, id) end
  redis.call('PERSIST', key)
  redis.call('HSET', key, 'version', next, 'data', new_data, 'write_id', new_write_id, 'expires_at', new_expires_at)
  if ttl ~= '' then
    local server_now = tonumber(redis.call('TIME')[1])
    local drop_at = math.max(server_now + tonumber(ttl), tonumber(new_expires_at) + ${clockSlackSeconds})
    redis.pcall('EXPIREAT', key, string.format('%.0f', drop_at))
  end
  redis.pcall('${publish}', index, id)
  return {next}
`)

/** How many arguments of the script of a commit belong to each step. */
export const argsPerStep = 8

/** For how many seconds a commit is remembered. */
const markerSeconds = 600

/**
 * Returns only `committed` if all steps were made, now or by an earlier request with the same token. Otherwise returns
 * six values for each refused step: its index, whether a record is stored, and the record's fields.
 *
 * Redis does not undo the commands of a script that fails. So all that may fail is tried before the first write: the
 * types of the keys, and each command, on the marker, which is not there yet. A command fails there if the user has no
 * permission for it, or if it was renamed. All of them change nothing there, except HSET, and that is undone by DEL.
 * ZADD comes first, since Redis refuses a command for lack of memory only until the script has called a write. The
 * hash's time to live is set by a command that may fail, as in `writeScript`. The arguments are read one by one, since
 * Lua's `unpack` can't return thousands. A commit of checks alone writes nothing, not even a marker.
 */
const makeCommitScript = (publish: Publish) =>
  script<ReadonlyArray<string>>(`
  local index, expiry, marker, now, write_id = KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[1]), ARGV[2]
  if redis.call('EXISTS', marker) == 1 then return {'committed'} end
  redis.call('ZCARD', index)
  redis.call('ZCARD', expiry)
  local has = {}
  local refused = {}
  for i = 1, #KEYS - 3 do
    local at = 2 + (i - 1) * ${argsPerStep}
    local kind, expected, expected_version, expected_match = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
    has[kind] = true
    local hash = redis.call('HMGET', KEYS[3 + i], ${hashFields})
    local version, data, stored_write_id, expires_at = hash[1], hash[2], hash[3], hash[4]
    local stored = version or data or stored_write_id or expires_at
    if stored_write_id == '' then stored_write_id = false end
    if expires_at == '' then expires_at = false end
    local sound = string.find(version or '', '^[1-9]%d*$') and (not expires_at or string.find(expires_at, '^%-?%d+$'))
    local live = stored and not (sound and expires_at and tonumber(expires_at) <= now)
    local holds
    if expected == 'nothing' then
      if kind == 'write' then holds = not stored else holds = not live end
    elseif not stored or not sound or version ~= expected_version then
      holds = false
    elseif expected == 'expired' then
      holds = not live and (stored_write_id or '') == expected_match
    elseif expected == 'write' then
      holds = live and stored_write_id == expected_match
    elseif expected == 'data' then
      holds = live and not stored_write_id and data == expected_match
    else
      holds = live
    end
    if not holds then
      local is_stored = stored and 'stored' or ''
      local found = {version or '', data or '', stored_write_id or '', expires_at or ''}
      refused[#refused + 1] = tostring(i - 1)
      refused[#refused + 1] = is_stored
      for _, value in ipairs(found) do refused[#refused + 1] = value end
    end
  end
  if #refused > 0 then return refused end
  if not has.write and not has.remove then return {'committed'} end
  if has.write then
    redis.call('ZADD', marker, 'XX', 0, '')
    redis.call('PERSIST', marker)
  end
  redis.call('ZREM', marker, '')
  redis.call('SET', marker, '', 'XX')
  redis.call('DEL', marker)
  if has.write then redis.call('HSET', marker, '', '') end
  redis.call('DEL', marker)
  local server_now, changed = tonumber(redis.call('TIME')[1]), {}
  for i = 1, #KEYS - 3 do
    local at, key = 2 + (i - 1) * ${argsPerStep}, KEYS[3 + i]
    local id, kind = ARGV[at + 1], ARGV[at + 2]
    local next, data, expires_at = ARGV[at + 6], ARGV[at + 7], ARGV[at + 8]
    if kind ~= 'check' then changed[#changed + 1] = id end
    if kind == 'write' then
      redis.call('ZADD', index, 0, id)
      if expires_at == '' then redis.call('ZREM', expiry, id) else redis.call('ZADD', expiry, expires_at, id) end
      redis.call('PERSIST', key)
      redis.call('HSET', key, 'version', next, 'data', data, 'write_id', write_id, 'expires_at', expires_at)
      if expires_at ~= '' then
        local live_for = math.max(1, tonumber(expires_at) - now + ${clockSlackSeconds})
        local drop_at = math.max(server_now + live_for, tonumber(expires_at) + ${clockSlackSeconds})
        redis.pcall('EXPIREAT', key, string.format('%.0f', drop_at))
      end
    elseif kind == 'remove' then
      redis.call('ZREM', expiry, id)
      redis.call('ZREM', index, id)
      redis.call('DEL', key)
    end
  end
  redis.call('SET', marker, '', 'EX', ${markerSeconds})
  if #changed > 0 then redis.pcall('${publish}', index, table.concat(changed, '\\0')) end
  return {'committed'}
`)

const makeRemoveScript = (publish: Publish) =>
  script<ReadonlyArray<string>>(`
  ${readRecord}
  if not live or not as_expected() then return refused() end
  redis.call('ZREM', expiry, id)
  redis.call('ZREM', index, id)
  redis.call('DEL', key)
  redis.pcall('${publish}', index, id)
  return {'removed'}
`)

/**
 * The scripts that change records. Each then publishes the ids of the changed records, on a channel of the owner.
 * Publishing comes last, and may fail: a user without permission for the channel is told the truth about the write.
 */
export const makeChangeScripts = (publish: Publish) => ({
  write: makeWriteScript(publish),
  remove: makeRemoveScript(publish),
  commit: makeCommitScript(publish)
})

/**
 * Returns whether more records follow, the last id examined, and the live records. If the hash of an id is gone, and
 * the record expired so long ago that it is live for no client, the id is removed from the index. Otherwise an id
 * without a hash is returned without fields, since the hash may be on another node while a cluster moves the slot.
 */
export const listScript = script<ReadonlyArray<string>>(`
  local index, expiry = KEYS[1], KEYS[2]
  local records, prefix, after, order = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
  local limit, now = tonumber(ARGV[5]), tonumber(ARGV[6])
  local first, last = '[' .. prefix, '(' .. prefix .. '\\255'
  local ids
  if order == 'ascending' then
    if after ~= '' then first = '(' .. after end
    ids = redis.call('ZRANGE', index, first, last, 'BYLEX', 'LIMIT', 0, limit + 1)
  else
    if after ~= '' then last = '(' .. after end
    ids = redis.call('ZRANGE', index, last, first, 'BYLEX', 'REV', 'LIMIT', 0, limit + 1)
  end
  local found, examined, bytes = {'', ''}, 0, 0
  for _, id in ipairs(ids) do
    if examined == limit or bytes >= ${maxPageBytes} then
      found[1] = 'more'
      break
    end
    examined = examined + 1
    found[2] = id
    local hash = redis.pcall('HMGET', records .. id, ${hashFields})
    if hash.err and not string.find(hash.err, 'non local key') then return hash end
    local version, data, write_id, expires_at = unpack(hash)
    local due = not (version or data or write_id or expires_at) and redis.call('ZSCORE', expiry, id)
    if due and tonumber(due) <= now - ${clockSlackSeconds} then
      redis.pcall('ZREM', index, id)
      redis.pcall('ZREM', expiry, id)
    elseif not ((tonumber(expires_at or '') or now + 1) <= now) then
      bytes = bytes + #(data or '')
      for _, value in ipairs({id, version or '', data or '', write_id or '', expires_at or ''}) do
        found[#found + 1] = value
      end
    end
  end
  return found
`)

/** Returns the fields of each hash. */
export const readManyScript = script<ReadonlyArray<ReadonlyArray<string | null>>>(`
  local found = {}
  for i, key in ipairs(KEYS) do
    found[i] = redis.call('HMGET', key, ${hashFields})
  end
  return found
`)

/** Removes an id from the index if its hash is gone. */
export const forgetScript = script<number>(`
  local key, index, expiry = KEYS[1], KEYS[2], KEYS[3]
  if redis.call('EXISTS', key) == 0 then
    redis.call('ZREM', expiry, ARGV[1])
    redis.call('ZREM', index, ARGV[1])
  end
  return 0
`)

/**
 * Returns how many ids the expiry index listed as due, and how many were removed. The index may be stale, so the expiry
 * in the record's hash decides.
 */
export const cleanupScript = script<readonly [due: number, removed: number]>(`
  local index, expiry = KEYS[1], KEYS[2]
  local records, until_second = ARGV[1], tonumber(ARGV[2])
  local due, removed = redis.call('ZRANGE', expiry, '-inf', until_second, 'BYSCORE', 'LIMIT', 0, ${cleanupBatch}), 0
  for _, id in ipairs(due) do
    local key = records .. id
    local expires_at = redis.call('HGET', key, 'expires_at')
    local seconds = tonumber(expires_at or '')
    if redis.call('EXISTS', key) == 1 and not (seconds and seconds <= until_second) then
      if seconds then redis.call('ZADD', expiry, expires_at, id) else redis.call('ZREM', expiry, id) end
    else
      redis.call('DEL', key)
      redis.call('ZREM', index, id)
      redis.call('ZREM', expiry, id)
      removed = removed + 1
    end
  end
  return {#due, removed}
`)
