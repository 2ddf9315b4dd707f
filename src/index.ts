/**
 * Every module that needs no optional dependency. A module that needs one has an entry of its own, for example
 * `effect-versioned-store/DynamoDb` and `effect-versioned-store/StorageContract`.
 */
export * as Engine from "./Engine.ts"
export * as InMemory from "./engine/InMemory.ts"
export * as Lease from "./Lease.ts"
export * as StorageCircuitBreaker from "./persistence/StorageCircuitBreaker.ts"
export * as StorageKeyValueStore from "./persistence/StorageKeyValueStore.ts"
export * as StoragePersistedQueue from "./persistence/StoragePersistedQueue.ts"
export * as StoragePersistence from "./persistence/StoragePersistence.ts"
export * as StorageRateLimiter from "./persistence/StorageRateLimiter.ts"
export * as StorageBackend from "./StorageBackend.ts"
export * as StorageError from "./StorageError.ts"
export * as StorageKey from "./StorageKey.ts"
export * as StoragePrefix from "./StoragePrefix.ts"
export * as Transaction from "./Transaction.ts"
export * as Task from "./task/Task.ts"
export * as TaskError from "./task/TaskError.ts"
export * as TaskStore from "./task/TaskStore.ts"
export * as VersionedStore from "./VersionedStore.ts"
export * as StorageWorkflowEngine from "./workflow/StorageWorkflowEngine.ts"
