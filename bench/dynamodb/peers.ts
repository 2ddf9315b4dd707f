/** Other libraries for DynamoDB, each with a record of the same data: an owner, an id, a version and a text. */
import {
  type DynamoDBClient,
  GetItemCommand,
  PutItemCommand,
  type PutItemCommandInput,
  UpdateItemCommand
} from "@aws-sdk/client-dynamodb"
import { DynamoDBDocumentClient, GetCommand, PutCommand, UpdateCommand } from "@aws-sdk/lib-dynamodb"
import { Table as OneTable } from "dynamodb-onetable"
import {
  item,
  number,
  string,
  Entity as ToolboxEntity,
  GetItemCommand as ToolboxGet,
  PutItemCommand as ToolboxPut,
  Table as ToolboxTable,
  UpdateItemCommand as ToolboxUpdate
} from "dynamodb-toolbox"
import { Entity as ElectroEntity } from "electrodb"

/** What is measured of each library. */
export interface Peer {
  readonly name: string
  readonly get: (id: string) => Promise<unknown>
  readonly put: (id: string) => Promise<unknown>
  /** Writes one version above the given one, if that is there. */
  readonly swap: (id: string, version: number) => Promise<unknown>
  /** An item as the library stores it, in the attribute values of DynamoDB. */
  readonly item: NonNullable<PutItemCommandInput["Item"]>
}

export const tableName = "records"
export const owner = "alice"
export const data = "x".repeat(1000)

const values = { version: { N: "1" }, data: { S: data } }

/** Sends what the library sends: one `UpdateItem` that adds to the version. */
export const bare = (client: DynamoDBClient): Peer => {
  const keyOf = (id: string) => ({ PK: { S: `OWNER#bare` }, SK: { S: `TASK#${id}` } })
  let writes = 0
  const update = (id: string, condition: string, expression: string, more: Record<string, { N: string }>) =>
    client.send(
      new UpdateItemCommand({
        TableName: tableName,
        Key: keyOf(id),
        UpdateExpression: expression,
        ConditionExpression: condition,
        ExpressionAttributeNames: { "#d": "data", "#w": "write_id", "#v": "version", "#e": "expires_at" },
        ExpressionAttributeValues: { ...more, ":d": { S: data }, ":w": { S: `bare.${(writes++).toString(36)}` } },
        ReturnValues: "UPDATED_NEW",
        ReturnValuesOnConditionCheckFailure: "ALL_OLD",
        ReturnConsumedCapacity: "TOTAL"
      })
    )
  return {
    name: "bare client",
    get: (id) =>
      client.send(
        new GetItemCommand({
          TableName: tableName,
          Key: keyOf(id),
          ConsistentRead: true,
          ReturnConsumedCapacity: "TOTAL"
        })
      ),
    put: (id) =>
      update(id, "attribute_not_exists(#v) OR #v <= :max", "SET #d = :d, #w = :w ADD #v :increment REMOVE #e", {
        ":increment": { N: "1" },
        ":max": { N: "9007199254740990" }
      }),
    swap: (id, version) =>
      update(id, "#v = :v AND NOT (#e <= :now) AND #v <= :max", "SET #d = :d, #w = :w, #v = :next REMOVE #e", {
        ":v": { N: String(version) },
        ":next": { N: String(version + 1) },
        ":now": { N: "1700000000" },
        ":max": { N: "9007199254740990" }
      }),
    item: { ...keyOf("item"), ...values, write_id: { S: "bare.0" } }
  }
}

/** Reads, compares in the process, and puts: two requests, of which the second has the condition. */
export const getThenPut = (client: DynamoDBClient): Peer => {
  const keyOf = (id: string) => ({ PK: { S: "OWNER#reference" }, SK: { S: `TASK#${id}` } })
  const get = (id: string) =>
    client.send(new GetItemCommand({ TableName: tableName, Key: keyOf(id), ConsistentRead: true }))
  const put = (id: string, version: number, condition?: string) =>
    client.send(
      new PutItemCommand({
        TableName: tableName,
        Item: { ...keyOf(id), data: { S: data }, version: { N: String(version) } },
        ...(condition === undefined
          ? {}
          : {
              ConditionExpression: condition,
              ExpressionAttributeNames: { "#v": "version" },
              ExpressionAttributeValues: { ":v": { N: String(version - 1) } }
            })
      })
    )
  return {
    name: "get, then put",
    get,
    put: async (id) => put(id, Number((await get(id)).Item?.version?.N ?? 0) + 1),
    swap: async (id, version) => {
      if (Number((await get(id)).Item?.version?.N) !== version) throw new Error("conflict")
      return put(id, version + 1, "#v = :v")
    },
    item: { ...keyOf("item"), ...values }
  }
}

export const documentClient = (client: DynamoDBClient): Peer => {
  const document = DynamoDBDocumentClient.from(client)
  const keyOf = (id: string) => ({ PK: "OWNER#lib", SK: `TASK#${id}` })
  return {
    name: "lib-dynamodb",
    get: (id) => document.send(new GetCommand({ TableName: tableName, Key: keyOf(id), ConsistentRead: true })),
    put: (id) => document.send(new PutCommand({ TableName: tableName, Item: { ...keyOf(id), data, version: 1 } })),
    swap: (id, version) =>
      document.send(
        new UpdateCommand({
          TableName: tableName,
          Key: keyOf(id),
          UpdateExpression: "SET #d = :d, #v = :next",
          ConditionExpression: "#v = :v",
          ExpressionAttributeNames: { "#d": "data", "#v": "version" },
          ExpressionAttributeValues: { ":d": data, ":v": version, ":next": version + 1 }
        })
      ),
    item: { PK: { S: "OWNER#lib" }, SK: { S: "TASK#item" }, ...values }
  }
}

export const electro = (client: DynamoDBClient): Peer => {
  const records = new ElectroEntity(
    {
      model: { entity: "record", version: "1", service: "bench" },
      attributes: {
        owner: { type: "string", required: true },
        id: { type: "string", required: true },
        version: { type: "number", required: true },
        data: { type: "string", required: true }
      },
      indexes: { primary: { pk: { field: "PK", composite: ["owner"] }, sk: { field: "SK", composite: ["id"] } } }
    },
    { client, table: tableName }
  )
  return {
    name: "ElectroDB",
    get: (id) => records.get({ owner, id }).go({ consistent: true }),
    put: (id) => records.put({ owner, id, version: 1, data }).go(),
    swap: (id, version) =>
      records
        .patch({ owner, id })
        .set({ data, version: version + 1 })
        .where((attributes, { eq }) => eq(attributes.version, version))
        .go(),
    item: {
      PK: { S: "$bench#owner_alice" },
      SK: { S: "$record_1#id_item" },
      owner: { S: owner },
      id: { S: "item" },
      __edb_e__: { S: "record" },
      __edb_v__: { S: "1" },
      ...values
    }
  }
}

export const toolbox = (client: DynamoDBClient): Peer => {
  const table = new ToolboxTable({
    name: tableName,
    partitionKey: { name: "PK", type: "string" },
    sortKey: { name: "SK", type: "string" },
    documentClient: DynamoDBDocumentClient.from(client)
  })
  const records = new ToolboxEntity({
    name: "record",
    table,
    schema: item({ PK: string().key(), SK: string().key(), version: number(), data: string() })
  })
  const keyOf = (id: string) => ({ PK: "OWNER#toolbox", SK: `TASK#${id}` })
  return {
    name: "DynamoDB-Toolbox",
    get: (id) => records.build(ToolboxGet).key(keyOf(id)).options({ consistent: true }).send(),
    put: (id) =>
      records
        .build(ToolboxPut)
        .item({ ...keyOf(id), version: 1, data })
        .send(),
    swap: (id, version) =>
      records
        .build(ToolboxUpdate)
        .item({ ...keyOf(id), version: version + 1, data })
        .options({ condition: { attr: "version", eq: version } })
        .send(),
    item: {
      PK: { S: "OWNER#toolbox" },
      SK: { S: "TASK#item" },
      _et: { S: "record" },
      _ct: { S: "2026-01-01T00:00:00.000Z" },
      _md: { S: "2026-01-01T00:00:00.000Z" },
      ...values
    }
  }
}

export const oneTable = (client: DynamoDBClient): Peer => {
  const table = new OneTable({
    client,
    name: tableName,
    partial: true,
    schema: {
      format: "onetable:1.1.0",
      version: "0.0.1",
      indexes: { primary: { hash: "PK", sort: "SK" } },
      models: {
        Record: {
          // biome-ignore lint/suspicious/noTemplateCurlyInString: OneTable's own templates
          PK: { type: String, value: "OWNER#${owner}" },
          // biome-ignore lint/suspicious/noTemplateCurlyInString: OneTable's own templates
          SK: { type: String, value: "TASK#${id}" },
          owner: { type: String, required: true },
          id: { type: String, required: true },
          version: { type: Number, required: true },
          data: { type: String, required: true }
        }
      }
    } as const
  })
  const records = table.getModel("Record")
  const ownerOf = "onetable"
  return {
    name: "OneTable",
    get: (id) => records.get({ owner: ownerOf, id }, { consistent: true }),
    put: (id) => records.create({ owner: ownerOf, id, version: 1, data }, { exists: null }),
    swap: (id, version) =>
      records.update(
        { owner: ownerOf, id, version: version + 1, data },
        // biome-ignore lint/suspicious/noTemplateCurlyInString: OneTable's own templates
        { where: "${version} = @{expected}", substitutions: { expected: version } }
      ),
    item: {
      PK: { S: "OWNER#onetable" },
      SK: { S: "TASK#item" },
      owner: { S: ownerOf },
      id: { S: "item" },
      _type: { S: "Record" },
      ...values
    }
  }
}
